"""Opens the file with an experiment's studies, mlruns/sweeps/EXPERIMENT.db (SQLite), which survives kills."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from learn.errors import DataError, SweepError
from learn.evaluation.metrics import METRICS
from tasks.sweep.study import KEY, Identity, Sweep
from tasks.tracking.address import project_folder

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

IDENTITY, USED = "identity", "used"  # user attributes of a study: the second is when it was last opened


def database(experiment: str) -> Path:
    """Returns the file with an experiment's studies."""
    return project_folder() / "mlruns" / "sweeps" / f"{experiment}.db"


@contextmanager
def alone(experiment: str) -> Iterator[None]:
    """Holds the lock of an experiment's sweeps; raises SweepError if another process has it."""
    from filelock import FileLock, Timeout

    file = database(experiment)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(file.with_suffix(".lock"), timeout=0):
            yield
    except Timeout:
        raise SweepError(
            f"a sweep of {experiment} is at work in this folder; wait until it has ended "
            "(--workers runs several trials at a time)"
        ) from None


@contextmanager
def no_sweep_at_work(experiments: Iterable[str]) -> Iterator[None]:
    """Holds the locks of those experiments that have sweeps; raises SweepError if a sweep of one is at work."""
    with ExitStack() as locks:
        for experiment in experiments:
            if database(experiment).exists():
                locks.enter_context(alone(experiment))
        yield


def last_identity(experiment: str) -> Identity | None:
    """Returns the identity of the sweep that was used last; None if there is none."""
    file = database(experiment)
    if not file.exists():
        return None
    with _readable(file):
        attributes = [study.user_attrs for study in _storage(file).get_all_studies() if IDENTITY in study.user_attrs]
    latest = max(attributes, key=lambda found: found[USED], default=None)
    return Identity(**latest[IDENTITY]) if latest else None


def open_sweep(identity: Identity) -> Sweep:
    """Returns the sweep of an identity, with its trials; begins one if there is none.

    Raises:
        DataError: The file is no database of Optuna's.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file = database(identity.experiment)
    file.parent.mkdir(parents=True, exist_ok=True)
    with _readable(file):
        study = optuna.create_study(
            storage=_storage(file),
            study_name=identity.name,
            direction="maximize" if METRICS[identity.metric].better == "higher" else "minimize",
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        if KEY not in study.user_attrs:
            study.set_user_attr(KEY, uuid.uuid4().hex)
        study.set_user_attr(USED, time.time())
        study.set_user_attr(IDENTITY, asdict(identity))  # last: a study with it is whole
    return Sweep(study, identity)


def rename_sweeps(old: str, new: str) -> None:
    """Gives the studies of an experiment its new name, under which their sweeps go on. Idempotent.

    Args:
        old: Old name of the experiment.
        new: New name of the experiment.

    Raises:
        SweepError: A sweep of the experiment is at work, or the new name has studies already; nothing was changed.
        DataError: The file is no database of Optuna's.
    """
    before, after = database(old), database(new)
    if not before.exists():
        return
    with alone(old):
        if after.exists():
            raise SweepError(f"{after} is there already, of an earlier {new}; delete it and try again")
        try:
            _rename_studies(before, new)
        except sqlite3.DatabaseError as error:
            raise _unusable(before, error) from error
        before.rename(after)


def _rename_studies(file: Path, new: str) -> None:
    """Changes the names and identities of all studies at once; Optuna itself renames none."""
    with closing(sqlite3.connect(file, timeout=60)) as open_file, open_file:
        found = open_file.execute("SELECT study_id, value_json FROM study_user_attributes WHERE key = ?", [IDENTITY])
        for study, text in found.fetchall():
            identity = replace(Identity(**json.loads(text)), experiment=new)
            open_file.execute("UPDATE studies SET study_name = ? WHERE study_id = ?", [identity.name, study])
            open_file.execute(
                "UPDATE study_user_attributes SET value_json = ? WHERE study_id = ? AND key = ?",
                [json.dumps(asdict(identity)), study, IDENTITY],
            )


def _storage(file: Path) -> RDBStorage:
    from optuna.storages import RDBStorage

    return RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": 60}})


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    from sqlalchemy.exc import DatabaseError

    try:
        yield
    except DatabaseError as error:
        raise _unusable(file, error.orig) from error


def _unusable(file: Path, why: object) -> DataError:
    return DataError(f"{file} cannot be used: {why}; if it is damaged, delete it, and the sweep begins anew")
