"""Which flow runs have lost their process: each holds a lock in this folder, until its process ends, however that is.

Such a run would be shown as running for ever, and keep others waiting.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.logging.loggers import flow_run_logger
from prefect.states import Crashed

from flows.notify import notify

FOLDER = Path(".dvc/tmp/flows")  # a file a flow run, named by its id
KILLED = "its process was killed"


def hold(run: UUID) -> None:
    """Takes the lock of a flow run, for as long as this process lives."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    partial = FOLDER / f".{run}"
    lock = os.open(partial, os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    partial.rename(FOLDER / str(run))  # whoever sees the file finds it locked


def end_dead_runs(*, deployments: bool) -> None:
    """Marks as Crashed the runs whose process has ended without a last word, and tells people.

    deployments: also those of deployments; while the process that started them lives, it does that itself.
    """
    for file in FOLDER.glob("[!.]*"):
        if _is_held(file):
            continue
        with get_client(sync_client=True) as client:
            try:
                run = client.read_flow_run(UUID(file.name))
            except ObjectNotFound:  # of another server
                continue
            if run.deployment_id and not deployments:
                continue
            if not (run.state and run.state.is_final()):
                client.set_flow_run_state(run.id, Crashed(message=KILLED), force=True)
                tell_crash(run)
        file.unlink(missing_ok=True)


def tell_crash(run: FlowRun) -> None:
    notify(f"{run.name} ended Crashed", KILLED, flow_run_logger(run))


def _is_held(file: Path) -> bool:
    try:
        with file.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):  # the latter: another process has just dealt with it
        return True
    return False
