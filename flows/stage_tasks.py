"""A stage as a Prefect task: `dvc repro --single-item STAGE` in a process of its own, with its kind's policy.

A stage ends with its flow: where the flow is stopped, the flow ends its stages; where it is killed, each stage sees the
end of its standard input (tasks/lifeline.py).
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

LAST_LINES = 40  # of a stage's output, among which its error is looked for
DECISIVE_ERRORS = {
    error.__name__ for error in (DeviceError, NetworkError, NotFiniteError)
}  # they decide on another try
SECONDS_TO_END = 5.0  # that a stage has to end when it is asked to; then it is killed

_running: set[subprocess.Popen[str]] = set()
_stopping = threading.Event()


def run_stage(name: str, up_to_date: bool, force: bool, timeout: int | None) -> State[Any]:
    """Runs one stage and passes its lines on to the log. One that is up to date ends as `Cached`.

    timeout: seconds, then the stage is stopped and ends as `TimedOut`; the time in which it waits for another stage, as
    for a GPU, is not counted. A failure's message holds the error.
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
    """The state in which a stage's task ends.

    Args:
        name: of the stage, such as train@digits-mlp.
        code: the exit code of DVC.
        outcome: what the stage left for its flow; None if it did not run, or was killed.
        lines: the last ones that it printed.
    """
    if code:
        error = outcome.error if outcome else ""
        return Failed(
            name=error if error in DECISIVE_ERRORS else "Failed",
            message=f"{name} failed with exit code {code}: {_cause(lines) or f'dvc repro {name} says why'}",
        )
    if not outcome:  # every stage that runs leaves one
        return Completed(name="Cached", message="up to date, or restored from DVC's cache")
    return Completed(message=outcome.summary)


def _cause(lines: Iterable[str]) -> str:
    """Of a failed stage's last lines those that say why; all of them are in its log already."""
    lines = [line for line in lines if not line.startswith("ERROR: failed to reproduce")]  # DVC's
    return "\n".join([line for line in lines if line.startswith("error: ")] or lines[-1:])


class _SaysIt(logging.Filter):
    """Drops Prefect's "Task run failed with state" before its "Finished in state", which says the same."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and record.exc_info[0] is None)


logging.getLogger("prefect.task_runs").addFilter(_SaysIt())


@contextmanager
def _process(*arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """DVC with a stage below it, in a session of its own: a Ctrl-C in the terminal reaches the flow alone.

    folder: for what the stage says: a file that is there while it waits for another one, and its outcome.
    """
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # dvc.yaml says python
        "PYTHONUNBUFFERED": "1",
        LIFELINE: "stdin",
        WAITING: str(folder / "waiting"),
        OUTCOME: str(folder / "outcome.json"),
        FLOW_RUN: str(runtime.flow_run.id),
        FLOW_RUN_URL: url_for("flow-run", runtime.flow_run.id) or "",  # an ephemeral server has no page
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
    """Around a flow: however it ends (Ctrl-C, SIGTERM, an error), no stage outlives it."""
    _stopping.clear()
    try:
        yield
    finally:
        _stopping.set()
        _end(list(_running))


def _end(processes: list[subprocess.Popen[str]]) -> None:
    """Ends processes and all below them: asks first, kills after SECONDS_TO_END."""
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
    """Not by a wrong checksum or a file that is not there: the same question would get the same answer."""
    return state.name == NetworkError.__name__


def may_succeed_again(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Not by taking too long, nor by a loss that became NaN, a device that is not there or has not enough memory."""
    return state.name not in ("TimedOut", DeviceError.__name__, NotFiniteError.__name__)


def _task(kind: str, **policy: Any) -> Task[..., State[Any]]:
    """The Prefect task of a kind of stage. One cache decides what runs, DVC's: Prefect's stays off."""
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
        retry_delay_seconds=exponential_backoff(2),  # 2, 4, 8 seconds, and as much again by chance
        retry_jitter_factor=1,
        retry_condition_fn=failed_by_network,
    ),
    "split": _task("split"),
    "transform": _task("transform"),
    "train": _task("train", retries=1, retry_condition_fn=may_succeed_again),
    "evaluate": _task("evaluate"),
    "register": _task("register"),
}
