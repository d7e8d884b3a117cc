"""Tells which process writes a run, and marks the runs whose process was killed."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.tracking.tags import FOLDER, HEARTBEAT, PROCESS, STAGE, STATE_DICT, TEST_DATA, USER

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


CLOCK_TOLERANCE_SECONDS = (
    60.0  # setting the system's clock moves the time at which a process seems to have been created
)
MAX_RUNNING_RUNS = 1000  # largest number of RUNNING runs to look at; more cannot run at the same time
HEARTBEAT_SECONDS = 30.0  # time between two heartbeats of a writer
DEAD_AFTER_SECONDS = 300.0  # time without a heartbeat after which a writer on another machine is taken for dead


def now_ms() -> int:
    """Returns the time in milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


def this_process() -> str:
    """Returns a text that identifies this process: machine, pid, and when it was created."""
    import psutil

    return json.dumps([_machine(), os.getpid(), psutil.Process().create_time()])


def _machine() -> str:
    """Returns the names of the host, of its boot and of the container; within these a pid identifies a process."""
    names = [socket.gethostname()]
    with suppress(OSError):  # not Linux
        names += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return " ".join(names)


def is_dead(process: str, last_seen: int) -> bool:
    """Returns whether a process is gone.

    On this machine it is looked for; on another one it is gone if nothing was seen of it for DEAD_AFTER_SECONDS.

    Args:
        process: What `this_process` returned in it.
        last_seen: When it last gave a sign of life, in milliseconds since 1970.
    """
    import psutil

    machine, pid, created = json.loads(process)
    if machine != _machine():
        return now_ms() - last_seen > DEAD_AFTER_SECONDS * 1000
    try:
        found = psutil.Process(pid)
        if found.status() == psutil.STATUS_ZOMBIE:
            return True
        return found.create_time() > created + CLOCK_TOLERANCE_SECONDS  # True if another process got the same pid
    except psutil.NoSuchProcess:
        return True


def _is_dead(run: Run) -> bool:
    """Returns whether the process that wrote a run is gone."""
    tags = run.data.tags
    return is_dead(tags[PROCESS], int(tags.get(HEARTBEAT, run.info.start_time)))


def mark_killed_runs(client: MlflowClient) -> None:
    """Marks as KILLED the runs whose process was killed before it could set their final status."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for run in client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=MAX_RUNNING_RUNS):
        # The status is read again once the process is known to be dead: it may have ended its run just before.
        if PROCESS in run.data.tags and _is_dead(run) and client.get_run(run.info.run_id).info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")


def is_latest(client: MlflowClient, run: Run) -> bool:
    """Returns whether no later training of the same folder and user with the same result has finished.

    Earlier ones that finished but were never evaluated are marked KILLED: DVC cannot have recorded them (it was killed,
    or its disk was full), since otherwise it would not have trained again. Another folder may train the same at once.
    """
    tags = run.data.tags
    for other in client.search_runs(
        [run.info.experiment_id],
        f"attributes.status = 'FINISHED' AND tags.`{STAGE}` = '{tags[STAGE]}' "
        f"AND tags.`{STATE_DICT}` = '{tags[STATE_DICT]}'",
    ):
        if any(other.data.tags.get(tag) != tags.get(tag) for tag in (USER, FOLDER)):
            continue
        if other.info.start_time > run.info.start_time:
            return False
        if other.info.run_id != run.info.run_id and TEST_DATA not in other.data.tags:
            client.set_terminated(other.info.run_id, "KILLED", end_time=other.info.end_time)
    return True
