"""Connects to MLflow's store, holds its lock, and recognises when its server does not answer."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import unquote

from learn.errors import StoreUnreachable, TrackingError
from tasks.tracking.address import address
from tasks.tracking.names import Store
from tasks.workspace.environment import PATIENCE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from tenacity import RetryCallState


P = ParamSpec("P")
T = TypeVar("T")
ARTIFACTS = "artifacts"  # name of the folder of artifacts beside a SQLite database
POSTGRESQL = "postgresql"  # beginning of PostgreSQL's addresses with any driver
POSTGRESQL_LOCK = int.from_bytes(b"trackway")  # number of the advisory lock that all processes of Trackway use
ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"
SECONDS_UNTIL_TOLD = 4.0  # time after which a line says that MLflow is waited for
MLFLOW_SETTINGS = {  # environment variables that MLflow reads when it is imported or later
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would print the store's password
    # By default MLflow retries for minutes without a message; Trackway reports a silent server at once, and retries.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds; storing a large file takes a server some time
}
SILENCE = re.compile(r"\[Errno \d+\] [\w ]+|Connection (?:refused|broken)|[Tt]imed out|too many \d+ error responses")
COLLISION = re.compile("UniqueViolation|UNIQUE constraint failed|Duplicate entry")
REFUSAL = re.compile(
    r"authentication failed|no password supplied|does not exist|pg_hba"
)  # in the errors of a PostgreSQL server that answers and refuses


@contextmanager
def connect(tracking: str) -> Iterator[MlflowClient]:
    """Yields a client of the store, and creates the store if it is missing.

    Raises:
        TrackingError: MLflow or its database failed.
        StoreUnreachable: The store's server does not answer.
    """
    store = address(tracking)
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    import logging

    logging.getLogger("alembic").setLevel("WARNING")
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow.store.db.utils").setLevel("CRITICAL")  # or it logs each error that it raises too
    mlflow.set_tracking_uri(store.uri)
    try:
        if store.file:
            _make_store(store.file)
            _move_store(tracking, store.file)
        # MLflow creates a database's tables when its client is created, without a lock.
        with store_lock(tracking) if store.uri.startswith(POSTGRESQL) else nullcontext():
            client = mlflow.MlflowClient(store.uri)
        yield client
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ModuleNotFoundError) as error:
        if not store.file and is_silence(error):
            reason = SILENCE.search(str(error))
            text = store.redacted(reason[0] if reason else " ".join(str(error).split())[:300])
            raise StoreUnreachable(f"MLflow at {store.shown} does not answer: {text}") from error
        text = store.redacted(" ".join(str(error).partition("[SQL: ")[0].split()))
        hint = PASSWORD_HINT if REFUSED.search(text) else STORE_HINT
        raise TrackingError(f"the MLflow store {store.shown} cannot be used: {text[:500]} ({hint})") from error


def is_silence(error: BaseException | None) -> bool:
    """Returns whether an error means that a server could not be reached or cannot answer now, but may later.

    So it is also if another process wrote the same row at this moment: MLflow looks, then inserts.
    """
    import requests
    from requests.exceptions import ChunkedEncodingError, RetryError
    from sqlalchemy.exc import InterfaceError, OperationalError
    from urllib3.exceptions import ProtocolError

    # requests raises the first of the last two for an answer that breaks off, urllib3 the other during a download.
    network = (requests.ConnectionError, requests.Timeout, RetryError, ChunkedEncodingError, ProtocolError)
    while error:
        if isinstance(error, network) or COLLISION.search(str(error)):
            return True
        if isinstance(error, OperationalError | InterfaceError):
            return not REFUSAL.search(str(error))
        error = error.__cause__ or error.__context__
    return False


def patience() -> float:
    """Returns for how many seconds a silent MLflow server is asked again."""
    return float(os.environ.get(PATIENCE, 30))


@contextmanager
def told_if_slow(uri: str | None) -> Iterator[None]:
    """Prints that MLflow is waited for if the block takes long; a request may take 20 seconds until it fails."""
    if not uri or address(uri).file:
        yield
        return
    timer = threading.Timer(
        SECONDS_UNTIL_TOLD, lambda: print(f"waiting for MLflow at {address(uri).shown}", flush=True)
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def patiently(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates an idempotent function so that it is called again until MLflow answers, for `patience()` seconds.

    Prints what it waits for, and for how long. The function's first argument is the store, or None.
    """

    @wraps(function)
    def patient(*arguments: P.args, **named: P.kwargs) -> T:
        from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

        store = arguments[0]

        def say(state: RetryCallState) -> None:
            if state.attempt_number == 1 and state.outcome:
                print(f"{state.outcome.exception()}; it is asked again for {patience():.0f} s", flush=True)

        with told_if_slow(store.uri if isinstance(store, Store) else None):
            return Retrying(
                retry=retry_if_exception_type(StoreUnreachable),
                stop=stop_after_delay(patience()),
                wait=wait_fixed(1),
                before_sleep=say,
                reraise=True,
            )(function, *arguments, **named)

    return patient


def _make_store(file: Path) -> None:
    """Creates MLflow's SQLite database with all its tables, or nothing.

    MLflow creates the tables in dozens of steps, which two processes must not do at once, and which a kill would leave
    unfinished for ever.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with store_lock(f"sqlite:///{file}"):
        if not file.exists():
            partial = file.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            _create_tables(partial, artifacts_of(file))
            partial.replace(file)


def _create_tables(file: Path, artifacts: str) -> None:
    """Makes a new database with MLflow's tables. artifacts: the default location of artifacts, as a URI."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{file}", artifacts).engine.dispose()


def artifacts_of(file: Path) -> str:
    """Returns the address of the artifacts beside a database; it is absolute, since MLflow records no other."""
    return (file.parent.resolve() / ARTIFACTS).as_uri()


def _move_store(uri: str, file: Path) -> None:
    """Corrects the locations of artifacts in the database if the project's folder was moved, copied or renamed.

    MLflow recorded the old folder; the artifacts are those beside the database.
    """
    with closing(sqlite3.connect(file, timeout=60)) as database:
        if not _elsewhere(database, file):
            return
        with store_lock(uri), database:
            for recorded in _elsewhere(database, file):
                old = Path(unquote(recorded.removeprefix("file://"))).parent
                new = file.parent.resolve()
                _replace_prefix(database, f"{old.as_uri()}/", f"{new.as_uri()}/")
                _replace_prefix(database, f"{old}/", f"{new}/")


def _elsewhere(database: sqlite3.Connection, file: Path) -> set[str]:
    """Returns the folders of artifacts that experiments name and that are not this store's."""
    locations = [location for (location,) in database.execute("SELECT artifact_location FROM experiments")]
    folders = {
        f"{before}/{ARTIFACTS}"
        for before, found, name in (location.rpartition(f"/{ARTIFACTS}/") for location in locations if location)
        if found and before.startswith("file:///") and "/" not in name
    }
    return folders - {artifacts_of(file)}


def _replace_prefix(database: sqlite3.Connection, old: str, new: str) -> None:
    """Replaces the beginning of values in every text column.

    MLflow has locations in five tables, and another version may have more.
    """
    columns = database.execute(
        "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c "
        "WHERE t.type = 'table' AND (c.type LIKE '%CHAR%' OR c.type LIKE '%TEXT%')"
    ).fetchall()
    for table, column in columns:
        database.execute(
            f'UPDATE "{table}" SET "{column}" = ?1 || substr("{column}", length(?2) + 1) '
            f'WHERE substr("{column}", 1, length(?2)) = ?2',
            (new, old),
        )


@contextmanager
def store_lock(tracking: str) -> Iterator[None]:
    """Holds the store's lock: MLflow checks, then creates, so two processes could both create.

    A kill releases it. SQLite has the lock of a file; PostgreSQL has one of its advisory locks, since several machines
    may use it. A tracking server has no lock: code that creates something there must expect that it exists already.
    """
    store = address(tracking)
    if store.file:
        from filelock import FileLock

        with FileLock(store.file.with_suffix(".lock")):
            yield
    elif store.uri.startswith(POSTGRESQL):
        import sqlalchemy

        os.environ.setdefault("PGCONNECT_TIMEOUT", "10")  # seconds; the default is minutes
        engine = sqlalchemy.create_engine(store.uri, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({POSTGRESQL_LOCK})"))
            yield
    else:
        yield


def all_pages(search: Callable[..., Any], **arguments: Any) -> list[Any]:
    """Returns what a search of MLflow finds, from all its pages."""
    found, token = [], None
    while True:
        page = search(page_token=token, **arguments)
        found += page
        if not (token := page.token):
            return found


def if_there(ask: Callable[[], T]) -> T | None:
    """Returns what the function returns; None if the store answers that it does not exist. Raises any other failure."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


REFUSED = re.compile(r"error code 40[13]\b")
PASSWORD_HINT = "is its password the right one? $NAME in tracking is taken from the environment"
STORE_HINT = "tracking: null in params.yaml trains without it"
