"""Finds flow runs whose process is gone, and marks them as Crashed.

Prefect would show such a run as running for ever, and keep others waiting. Each flow run holds a lock in this folder,
which the operating system releases when its process ends for any reason.
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

FOLDER = Path(".dvc/tmp/flows")  # has one file for each flow run, named by its id
KILLED = "its process was killed"


def hold(run: UUID) -> None:
    """Takes the lock of a flow run, which this process holds until it ends."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    partial = FOLDER / f".{run}"
    lock = os.open(partial, os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    partial.rename(FOLDER / str(run))  # the file gets this name only once it is locked


def end_dead_runs(*, deployments: bool) -> None:
    """Marks as Crashed the runs whose process ended without a final state, and notifies people.

    Args:
        deployments: Include runs of deployments; False while the process that started them lives, which marks them
            itself.
    """
    for file in FOLDER.glob("[!.]*"):
        if _is_held(file):
            continue
        with get_client(sync_client=True) as client:
            try:
                run = client.read_flow_run(UUID(file.name))
            except ObjectNotFound:  # the run belongs to another server
                continue
            if run.deployment_id and not deployments:
                continue
            if not (run.state and run.state.is_final()):
                client.set_flow_run_state(run.id, Crashed(message=KILLED), force=True)
                tell_crash(run)
        file.unlink(missing_ok=True)


def tell_crash(run: FlowRun) -> None:
    """Notifies people that the process of a flow run was killed."""
    notify(f"{run.name} ended Crashed", KILLED, flow_run_logger(run))


def _is_held(file: Path) -> bool:
    try:
        with file.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):  # not found: another process has just marked the run
        return True
    return False
