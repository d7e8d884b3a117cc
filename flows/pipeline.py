"""The flows: walk DVC's graph and run each stage as a Prefect task, as soon as what it needs is done.

    python -m flows.pipeline            # everything in params.yaml; `trackway run` does the same and prints the results

The graph is DVC's, read from it; a task runs `dvc repro --single-item STAGE`, and DVC decides what is up to date.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

from filelock import FileLock
from prefect import Flow, flow, get_run_logger, runtime
from prefect.client.schemas.objects import FlowRun, State
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Failed

from flows.graph import Graph
from flows.notify import notify
from flows.results import publish
from flows.stages import TASKS, all_stopped_at_the_end
from learn.errors import TrackwayError
from tasks.stage import checked_params, one_at_a_time

LOCK = Path(".dvc/tmp/flow.lock")


def _tell_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    notify(f"{flow_run.name} ended {state.name}", state.message or "")


@flow(
    flow_run_name=lambda: f"pipeline: {', '.join(runtime.flow_run.parameters['targets'] or ['everything'])}",
    on_failure=[_tell_failure],
    on_crashed=[_tell_failure],
)
def pipeline(targets: list[str] | None = None, workers: int | None = None, force: bool = False) -> State[Any]:
    """Brings everything in params.yaml up to date, or the targets and what they need.

    targets: stages (train@digits-mlp), kinds of stages (train), experiments or datasets. workers: stages at a time; by
    default so that workers × threads = cores. force: run also what is up to date.
    """
    return _bring_up_to_date(targets, workers, lambda stage: force)


@flow(
    flow_run_name="retrain: {dataset}",
    on_failure=[_tell_failure],
    on_crashed=[_tell_failure],
)
def retrain(dataset: str, workers: int | None = None) -> State[Any]:
    """Trains, evaluates and registers a dataset's experiments again, also where they are up to date.

    What comes before (download, split, transform) runs only where it is not up to date.
    """
    checked_params().dataset(dataset)
    again = ("train", "evaluate", "register")
    return _bring_up_to_date([dataset], workers, lambda stage: stage.partition("@")[0] in again)


def _bring_up_to_date(targets: list[str] | None, workers: int | None, force: Callable[[str], bool]) -> State[Any]:
    with _alone_in_this_folder(), all_stopped_at_the_end():
        params = checked_params()
        graph = Graph(Path.cwd())
        changed = graph.changed()
        workers = workers or max(1, (os.cpu_count() or 1) // params.threads)
        timeouts = params.flow.timeouts.model_dump()
        waiting = graph.order(targets)
        futures: dict[str, PrefectFuture[Any]] = {}
        running: dict[PrefectFuture[Any], str] = {}

        while waiting or running:
            started = set(futures) - set(running.values())
            ready = [name for name in waiting if started.issuperset(graph.needs(name))]
            for name in ready[: workers - len(running)]:
                needs = [futures[need] for need in graph.needs(name)]
                # Where a need was run, DVC looks again; where one failed, Prefect ends the task as NotReady.
                unchanged = name not in changed and all(n.state.name == "Cached" for n in needs)
                kind = name.partition("@")[0]
                future = TASKS[kind].submit(
                    name, unchanged and not force(name), force(name), timeouts.get(kind), wait_for=needs
                )
                futures[name] = future
                running[future] = name
                waiting.remove(name)
            if running:
                done = next(as_completed(list(running)))
                done.wait()  # until then its state is what the server last heard
                running.pop(done)
        publish(params)
    return _final_state({name: future.state for name, future in futures.items()})


def _final_state(states: dict[str, State[Any]]) -> State[Any]:
    if all(state.is_completed() for state in states.values()):
        cached = sum(state.name == "Cached" for state in states.values())
        return Completed(message=f"{len(states)} stages: {len(states) - cached} run, {cached} up to date")
    failed = [state.message or name for name, state in states.items() if state.is_final() and not state.is_completed()]
    left = [name for name, state in states.items() if not state.is_final()]
    if left:
        failed.append(f"not run, for they need it: {', '.join(left)}")
    return Failed(message="\n\n".join(failed))


def _alone_in_this_folder() -> AbstractContextManager[None]:
    """One flow at a time in a working tree, whoever starts it."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    waiting = "another flow is at work in this folder; waiting for it to end"
    return one_at_a_time(FileLock(LOCK), lambda: get_run_logger().info(waiting))


def run_pipeline(targets: list[str] | None = None, workers: int | None = None, force: bool = False) -> State[Any]:
    """The flow from a terminal; returns its final state. Raises ParamsError before Prefect is bothered."""
    checked_params()
    if targets:
        Graph(Path.cwd()).order(targets)
    # The results need it and MLflow with it, and Prefect's server takes seconds to start.
    Thread(target=import_module, args=["mlflow.store.tracking.sqlalchemy_store"], daemon=True).start()
    return pipeline(targets, workers, force, return_state=True)


if __name__ == "__main__":
    try:
        final = run_pipeline()
    except TrackwayError as error:
        sys.exit(error.as_message())
    if not final.is_completed():
        sys.exit(1)
