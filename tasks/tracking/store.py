"""MLflow's store: a client of it, its lock, and what its silence looks like."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from urllib.parse import unquote

from learn.errors import StoreUnreachable, TrackingError
from tasks.tracking.address import address
from tasks.workspace.environment import PATIENCE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from tenacity import RetryCallState


P = ParamSpec("P")
T = TypeVar("T")
ARTIFACTS = "artifacts"  # the folder beside the database
POSTGRESQL = "postgresql"  # how its addresses begin, whatever the driver
POSTGRESQL_LOCK = int.from_bytes(b"trackway")  # the number of its advisory lock; only the same number excludes
ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"
SECONDS_UNTIL_TOLD = 4.0  # seconds, after which it is said that MLflow is waited for
MLFLOW_SETTINGS = {  # environment variables, which MLflow reads while it is imported or later
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would print the store's password
    # MLflow would ask a silent server again for minutes, and say nothing: here it is said at once, and waited for.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds; a server may take some to store a large file
}
SILENCE = re.compile(r"\[Errno \d+\] [\w ]+|Connection (?:refused|broken)|[Tt]imed out|too many \d+ error responses")
REFUSAL = re.compile(
    r"authentication failed|no password supplied|does not exist|pg_hba"
)  # by PostgreSQL, which answers


@contextmanager
def connect(tracking: str) -> Iterator[MlflowClient]:
    """A client of the store, which is made if it is missing. MLflow's failures come out as TrackingError."""
    store = address(tracking)
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    import logging

    logging.getLogger("alembic").setLevel("WARNING")
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow.store.db.utils").setLevel("CRITICAL")  # it would log what is raised, with its traceback
    mlflow.set_tracking_uri(store.uri)
    try:
        if store.file:
            _make_store(store.file)
            _move_store(tracking, store.file)
        # MLflow makes a database's tables when its client is made, without a lock.
        with store_lock(tracking) if store.uri.startswith(POSTGRESQL) else nullcontext():
            client = mlflow.MlflowClient(store.uri)
        yield client
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ModuleNotFoundError) as error:
        if not store.file and is_silence(error):
            reason = SILENCE.search(str(error))
            text = store.redacted(reason[0] if reason else " ".join(str(error).split())[:300])
            raise StoreUnreachable(f"MLflow at {store.shown} does not answer: {text}") from error
        text = store.redacted(" ".join(str(error).partition("[SQL: ")[0].split()))
        raise TrackingError(f"the MLflow store {store.shown} cannot be used: {text[:500]} ({STORE_HINT})") from error


def is_silence(error: BaseException | None) -> bool:
    """Whether a server could not be reached, or said that it cannot answer now: later it may."""
    import requests
    from requests.exceptions import ChunkedEncodingError, RetryError
    from sqlalchemy.exc import InterfaceError, OperationalError
    from urllib3.exceptions import ProtocolError

    # The last two: of an answer that broke off, as requests tells it, and as a download does.
    network = (requests.ConnectionError, requests.Timeout, RetryError, ChunkedEncodingError, ProtocolError)
    while error:
        if isinstance(error, network):
            return True
        if isinstance(error, OperationalError | InterfaceError):
            return not REFUSAL.search(str(error))
        error = error.__cause__ or error.__context__
    return False


def patience() -> float:
    return float(os.environ.get(PATIENCE, 30))


@contextmanager
def told_if_slow(uri: str | None) -> Iterator[None]:
    """Says what is waited for, if a server takes long; until it is said to be silent, up to 20 seconds may pass."""
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
    """Calls a function, which may be called again, until MLflow answers; says what it waits for, and for how long."""

    @wraps(function)
    def patient(*arguments: P.args, **named: P.kwargs) -> T:
        from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

        uri = arguments[0]

        def say(state: RetryCallState) -> None:
            if state.attempt_number == 1 and state.outcome:
                print(f"{state.outcome.exception()}; it is asked again for {patience():.0f} s", flush=True)

        with told_if_slow(uri if isinstance(uri, str) else None):
            return Retrying(
                retry=retry_if_exception_type(StoreUnreachable),
                stop=stop_after_delay(patience()),
                wait=wait_fixed(1),
                before_sleep=say,
                reraise=True,
            )(function, *arguments, **named)

    return patient


def _make_store(file: Path) -> None:
    """MLflow's tables, whole or not at all: it makes them in dozens of steps, which two processes must not do at once,
    and which a kill would leave half done for ever."""
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
    """Where the artifacts are, beside the database; MLflow records only absolute locations."""
    return (file.parent.resolve() / ARTIFACTS).as_uri()


def _move_store(uri: str, file: Path) -> None:
    """Where the project's folder was moved, copied or renamed: its artifacts are those beside the database, not those
    in the folder that MLflow recorded."""
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
    """The folders of artifacts that experiments name and that are not this store's."""
    locations = [location for (location,) in database.execute("SELECT artifact_location FROM experiments")]
    folders = {
        f"{before}/{ARTIFACTS}"
        for before, found, name in (location.rpartition(f"/{ARTIFACTS}/") for location in locations if location)
        if found and before.startswith("file:///") and "/" not in name
    }
    return folders - {artifacts_of(file)}


def _replace_prefix(database: sqlite3.Connection, old: str, new: str) -> None:
    """In every column of text: MLflow has such locations in five tables, and another version may have more."""
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

    A kill releases it. SQLite: a file's lock. PostgreSQL: one of its advisory locks, for it may be reached from several
    machines. A tracking server has none; whoever creates something there expects that it may exist by then.
    """
    store = address(tracking)
    if store.file:
        from filelock import FileLock

        with FileLock(store.file.with_suffix(".lock")):
            yield
    elif store.uri.startswith(POSTGRESQL):
        import sqlalchemy

        os.environ.setdefault("PGCONNECT_TIMEOUT", "10")  # seconds; by default it waits for minutes
        engine = sqlalchemy.create_engine(store.uri, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({POSTGRESQL_LOCK})"))
            yield
    else:
        yield


def if_there(ask: Callable[[], T]) -> T | None:
    """What is asked for; None only if the store answers that there is none. Any other failure is raised."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


STORE_HINT = "tracking: null in params.yaml trains without it"
