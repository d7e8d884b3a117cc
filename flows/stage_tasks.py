"""Runs a stage as a Prefect task: `dvc repro --single-item STAGE` in a separate process, with its kind's retry policy.

A stage ends with its flow: a flow that is stopped ends its stages; if it is killed, each stage sees that its standard
input closes (tasks/lifeline.py).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from prefect import Task, get_run_logger, runtime
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Cancelled, Completed, Failed
from prefect.tasks import exponential_backoff
from prefect.utilities.urls import url_for

from flows.notify import notify
from learn.errors import DeviceError, NetworkError, NotFiniteError
from tasks.workspace.environment import FLOW_RUN, FLOW_RUN_URL, LIFELINE, OUTCOME, WAITING
from tasks.workspace.outcome import Outcome, told

LAST_LINES = 40  # number of lines at the end of a stage's output in which its error is looked for
DECISIVE_ERRORS = {
    error.__name__ for error in (DeviceError, NetworkError, NotFiniteError)
}  # names of the errors that decide whether a stage is tried again
SECONDS_TO_END = 5.0  # time that a stage has to end after SIGTERM; then it is killed

_running: set[subprocess.Popen[str]] = set()
_stopping = threading.Event()


def run_stage(name: str, up_to_date: bool, force: bool, timeout: int | None) -> State[Any]:
    """Runs one stage, and writes its output to the log.

    Args:
        name: Name of the stage, such as train@digits-mlp.
        up_to_date: Whether the stage need not run; it then ends as `Cached`.
        force: Run the stage even if DVC considers it up to date.
        timeout: Seconds after which the stage is stopped and ends as `TimedOut`, not counting the time in which it
            waits for another stage, such as one on the GPU; None for no limit.

    Returns:
        The final state; after a failure its message has the error.
    """
    if up_to_date:
        return Completed(name="Cached", message="up to date")
    log = get_run_logger()
    options = ["--quiet", "--single-item", *(["--force"] if force else [])]
    last: deque[str] = deque(maxlen=LAST_LINES)
    with (
        tempfile.TemporaryDirectory() as folder,
        _process("--wait-for-lock", "repro", *options, name, folder=Path(folder)) as process,
        _ended_after(timeout, process, Path(folder)) as too_long,
    ):
        assert process.stdout
        for line in process.stdout:
            if line := line.rstrip():
                last.append(line)
                log.info(line)
        code = process.wait()
        outcome = told(Path(folder) / "outcome.json")
    if _stopping.is_set():
        return Cancelled(message=f"{name} was stopped with its flow")
    if too_long.is_set():
        return _timed_out(name, timeout)
    state = final_state(name, code, outcome, last)
    if outcome and outcome.champion:
        notify("new champion", outcome.champion, log)
    if outcome and outcome.refused:
        notify("no new champion", outcome.refused, log)
    return state


@contextmanager
def _ended_after(timeout: int | None, process: subprocess.Popen[str], folder: Path) -> Iterator[threading.Event]:
    """Ends a stage's processes after so many seconds, without those in which it waits for another stage.

    Yields an event that is set if that happens. folder: where the stage says that it waits.
    """
    done, too_long = threading.Event(), threading.Event()

    def watch(left: float) -> None:
        while left > 0:
            before = time.monotonic()
            if done.wait(min(left, 1)):
                return
            left -= 0 if (folder / "waiting").exists() else time.monotonic() - before
        too_long.set()
        _end([process])

    if timeout:
        threading.Thread(target=watch, args=[timeout], daemon=True).start()
    try:
        yield too_long
    finally:
        done.set()


def _timed_out(name: str, timeout: int | None) -> State[Any]:
    key = f"flow.timeouts.{name.partition('@')[0]}"
    why = f"{name} took longer than {timeout} s and was stopped; {key} in params.yaml says how long it may take"
    return Failed(name="TimedOut", message=why)


def final_state(name: str, code: int, outcome: Outcome | None, lines: Iterable[str]) -> State[Any]:
    """Returns the state in which a stage's task ends.

    Args:
        name: Name of the stage, such as train@digits-mlp.
        code: Exit code of DVC.
        outcome: What the stage left for its flow; None if it did not run, or was killed.
        lines: The last lines that it printed.
    """
    if code:
        error = outcome.error if outcome else ""
        return Failed(
            name=error if error in DECISIVE_ERRORS else "Failed",
            message=f"{name} failed with exit code {code}: {_cause(lines) or f'dvc repro {name} says why'}",
        )
    if not outcome:  # every stage that runs leaves an outcome
        return Completed(name="Cached", message="up to date, or restored from DVC's cache")
    return Completed(message=outcome.summary)


def _cause(lines: Iterable[str]) -> str:
    """Returns those of a failed stage's last lines that say why it failed."""
    lines = [line for line in lines if not line.startswith("ERROR: failed to reproduce")]  # printed by DVC
    return "\n".join([line for line in lines if line.startswith("error: ")] or lines[-1:])


class _SaysIt(logging.Filter):
    """Drops Prefect's "Task run failed with state" before its "Finished in state", which says the same."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns False for the messages to drop, which have an empty exception."""
        return not (record.exc_info and record.exc_info[0] is None)


logging.getLogger("prefect.task_runs").addFilter(_SaysIt())


@contextmanager
def _process(*arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Starts DVC with a stage below it, in a session of its own, so that Ctrl-C in the terminal reaches only the flow.

    Args:
        arguments: Arguments of the `dvc` command.
        folder: A folder for the stage's outcome, and for a file that exists while the stage waits for another one.
    """
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # dvc.yaml calls `python`
        "PYTHONUNBUFFERED": "1",
        LIFELINE: "stdin",
        WAITING: str(folder / "waiting"),
        OUTCOME: str(folder / "outcome.json"),
        FLOW_RUN: str(runtime.flow_run.id),
        FLOW_RUN_URL: url_for("flow-run", runtime.flow_run.id) or "",  # a temporary server has no page
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tasks.warm", "dvc", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        errors="replace",
        start_new_session=True,
    ) as process:
        _running.add(process)
        if _stopping.is_set():
            _end([process])
        try:
            yield process
        finally:
            _running.discard(process)


@contextmanager
def all_stopped_at_the_end() -> Iterator[None]:
    """Ends all running stages when the block ends for any reason (Ctrl-C, SIGTERM, an error)."""
    _stopping.clear()
    try:
        yield
    finally:
        _stopping.set()
        _end(list(_running))


def _end(processes: list[subprocess.Popen[str]]) -> None:
    """Ends processes and all below them by SIGTERM, and kills those that are left after SECONDS_TO_END."""
    family: list[psutil.Process] = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            dvc = psutil.Process(process.pid)
            family += [dvc, *dvc.children(recursive=True)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        _, family = psutil.wait_procs(family, timeout=SECONDS_TO_END)


def failed_by_network(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Returns whether a task failed because of the network; a wrong checksum or a missing file would fail again."""
    return state.name == NetworkError.__name__


def may_succeed_again(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Returns whether another try may succeed: not after a timeout, a loss that became NaN, or a device's error."""
    return state.name not in ("TimedOut", DeviceError.__name__, NotFiniteError.__name__)


def _task(kind: str, **policy: Any) -> Task[..., State[Any]]:
    """Returns the Prefect task of a kind of stage; Prefect's cache is off, since DVC decides what runs."""
    return Task(
        run_stage,
        name=kind,
        task_run_name=lambda: runtime.task_run.parameters["name"].replace("@", " "),
        cache_policy=NO_CACHE,
        persist_result=False,
        **policy,
    )


TASKS = {
    "group": _task("group"),
    "download": _task(
        "download",
        retries=3,
        retry_delay_seconds=exponential_backoff(2),  # 2, 4, 8 seconds, each up to doubled at random
        retry_jitter_factor=1,
        retry_condition_fn=failed_by_network,
    ),
    "split": _task("split"),
    "transform": _task("transform"),
    "train": _task("train", retries=1, retry_condition_fn=may_succeed_again),
    "evaluate": _task("evaluate"),
    "register": _task("register"),
}
