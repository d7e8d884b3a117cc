"""Runs a stage as a Prefect task: `dvc repro --single-item STAGE` in a separate process, with its kind's retry policy.

A stage ends with its flow: a flow that is stopped ends its stages; if it is killed, each stage sees that its standard
input closes (tasks/lifeline.py).
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from prefect import Task, get_run_logger, runtime
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Cancelled, Completed, Failed
from prefect.tasks import exponential_backoff

from flows.executors.local import Local
from flows.executors.running import ClusterLost, Executor, NodeLost, Running
from flows.notify import notify
from learn.errors import DeviceError, NetworkError, NotFiniteError, TrackwayError
from tasks.workspace.outcome import Outcome

LAST_LINES = 40  # number of lines at the end of a stage's output in which its error is looked for
STAGE_FAILED = re.compile(r"ERROR: failed to reproduce '[^']*': failed to run")  # DVC's line after those of a stage
LOST_NODES = 3  # number of times that a stage is tried again because its node is gone
DECISIVE_ERRORS = {
    error.__name__ for error in (DeviceError, NetworkError, NotFiniteError)
}  # names of the errors that decide whether a stage is tried again

_executor: Executor = Local()
_running: set[Running] = set()
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
    last: deque[str] = deque(maxlen=LAST_LINES)
    try:
        with _executor.start(name, force) as stage, _ended_with_flow(stage), _ended_after(timeout, stage) as too_long:
            for line in stage.lines():
                if line := line.rstrip():
                    last.append(line)
                    log.info(line)
            code, outcome = stage.wait()
    except TrackwayError as error:  # of a cluster: its node is gone, or a store did not answer
        if not _stopping.is_set():
            return Failed(name=type(error).__name__, message=f"{name}: {error}")
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
def stages_run_by(executor: Executor) -> Iterator[None]:
    """Lets an executor run the stages in the block; before and after it they run on this machine."""
    global _executor
    before, _executor = _executor, executor
    try:
        yield
    finally:
        _executor = before


@contextmanager
def _ended_after(timeout: int | None, stage: Running) -> Iterator[threading.Event]:
    """Ends a stage after so many seconds, without those in which it waits for another stage.

    Yields an event that is set if that happens.
    """
    done, too_long = threading.Event(), threading.Event()

    def watch(left: float) -> None:
        while left > 0:
            before = time.monotonic()
            if done.wait(min(left, 1)):
                return
            left -= 0 if stage.waits else time.monotonic() - before
        too_long.set()
        stage.end()

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
    lines = [line for line in lines if not STAGE_FAILED.match(line)]
    return "\n".join([line for line in lines if line.lower().startswith("error: ")] or lines[-1:])


class _SaysIt(logging.Filter):
    """Drops Prefect's "Task run failed with state" before its "Finished in state", which says the same."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns False for the messages to drop, which have an empty exception."""
        return not (record.exc_info and record.exc_info[0] is None)


logging.getLogger("prefect.task_runs").addFilter(_SaysIt())


@contextmanager
def _ended_with_flow(stage: Running) -> Iterator[None]:
    """Ends a stage if the flow stops while the block runs, or has stopped before."""
    _running.add(stage)
    if _stopping.is_set():
        stage.end()
    try:
        yield
    finally:
        _running.discard(stage)


@contextmanager
def all_stopped_at_the_end() -> Iterator[None]:
    """Ends all running stages when the block ends for any reason (Ctrl-C, SIGTERM, an error)."""
    _stopping.clear()
    try:
        yield
    finally:
        _stopping.set()
        if stages := list(_running):
            with ThreadPoolExecutor(len(stages)) as pool:
                list(pool.map(lambda stage: stage.end(), stages))


def failed_by_network(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Returns whether a task failed because of the network; a wrong checksum or a missing file would fail again."""
    return state.name == NetworkError.__name__


def may_succeed_again(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Returns whether another try may succeed: not after a timeout, a loss that became NaN, or a device's error."""
    return state.name not in ("TimedOut", DeviceError.__name__, NotFiniteError.__name__, ClusterLost.__name__)


def _or_node_lost(condition: Callable[..., bool] | None, tries: int) -> Callable[..., bool]:
    """Returns a condition for another try: the node is gone, or, up to `tries` times, another condition holds."""

    def again(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
        if state.name == NodeLost.__name__:
            return True
        return condition is not None and run.run_count <= tries and condition(task, run, state)

    return again


def _task(
    kind: str, tries: int = 0, condition: Callable[..., bool] | None = None, **policy: Any
) -> Task[..., State[Any]]:
    """Returns the Prefect task of a kind of stage; Prefect's cache is off, since DVC decides what runs.

    Args:
        kind: The kind of stage.
        tries: Number of further tries while the condition holds. A stage whose node is gone has LOST_NODES of them.
        condition: Whether another try may succeed.
        policy: Further arguments of the task.
    """
    return Task(
        run_stage,
        name=kind,
        task_run_name=lambda: runtime.task_run.parameters["name"].replace("@", " "),
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=max(tries, LOST_NODES),
        retry_condition_fn=_or_node_lost(condition, tries),
        **policy,
    )


TASKS = {
    "group": _task("group"),
    "download": _task(
        "download",
        tries=3,
        condition=failed_by_network,
        retry_delay_seconds=exponential_backoff(2),  # 2, 4, 8 seconds, each up to doubled at random
        retry_jitter_factor=1,
    ),
    "split": _task("split"),
    "transform": _task("transform"),
    "train": _task("train", tries=1, condition=may_succeed_again),
    "evaluate": _task("evaluate"),
    "register": _task("register"),
}
