"""The Prefect flows, which run each stage of DVC's graph as a task, as soon as the stages that it needs are done.

    python -m flows.pipeline            # everything in params.yaml; `trackway run` does the same and prints the results

The graph is read from DVC. A task runs `dvc repro --single-item STAGE`, and DVC decides what is up to date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib import import_module
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import UUID

from filelock import FileLock
from joblib import cpu_count
from prefect import Flow, flow, get_run_logger, runtime
from prefect.client.schemas.objects import FlowRun, State
from prefect.futures import PrefectFuture, as_completed
from prefect.logging.loggers import flow_run_logger
from prefect.states import Cancelled, Completed, Failed

from flows.alive import end_dead_runs, hold
from flows.executors import MIN_STAGES_FOR_WARM, PRELOADING, preloaded
from flows.executors.ray_cluster import RayCluster
from flows.graph import FLOW_LOCK, Graph
from flows.notify import notify, remember_addresses
from flows.publish import check_publishable, publish_results
from flows.reports.results import publish
from flows.servers.temporary import start_temporary_server
from flows.stage_tasks import TASKS, all_stopped_at_the_end, stages_run_by
from flows.stores import check_stores
from learn.errors import ParamsError, ServerError, TrackingError, TrackwayError
from tasks.params import Params
from tasks.params.flow import RAY_ADDRESS
from tasks.register import is_complete
from tasks.stage import checked_params
from tasks.tracking.address import address
from tasks.workspace.locks import one_at_a_time

ON_CLUSTER = 64  # largest number of stages that a cluster is given at a time; it decides how many it has room for
LARGE_GRAPH = 100  # stages; in a larger graph those that are up to date have no task: Prefect takes 25 ms for each


def _name(flow: str, parameters: dict[str, Any]) -> str:
    what = [parameters["dataset"]] if "dataset" in parameters else parameters.get("targets")
    return f"{flow}: {', '.join(what or ['everything'])}"


def _tell_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    name = _name(flow.name, flow_run.parameters)  # flow_run.name may be the random name from before the run began
    notify(f"{name} ended {state.name}", state.message or "", flow_run_logger(flow_run, flow))


@flow(
    flow_run_name=lambda: _name("pipeline", runtime.flow_run.parameters),
    on_failure=[_tell_failure],
    on_crashed=[_tell_failure],
)
def pipeline(
    targets: list[str] | None = None,
    workers: int | None = None,
    force: bool = False,
    publish: str | None = None,
    on: str | None = None,
) -> State[Any]:
    """Brings everything in params.yaml up to date, or the targets and what they need.

    Args:
        targets: Stages (train@digits-mlp), kinds of stages (train), experiments or datasets.
        workers: Number of stages at a time; by default as many as the cores have room for with their threads (affinity
            and a container's quota count).
        force: Run stages that are up to date, too.
        publish: A branch of git's origin; afterwards outputs are pushed to DVC's remote, and dvc.lock to this branch.
        on: The address of a Ray cluster whose nodes run the stages, such as ray://HOST:10001; by default what `flow` in
            params.yaml says.
    """
    return _bring_up_to_date(targets, workers, lambda stage: force, publish, on)


@flow(
    flow_run_name=lambda: _name("retrain", runtime.flow_run.parameters),
    on_failure=[_tell_failure],
    on_crashed=[_tell_failure],
)
def retrain(dataset: str, workers: int | None = None) -> State[Any]:
    """Trains, evaluates and registers a dataset's experiments again, even if they are up to date.

    The stages before (download, split, transform) run only if they are not up to date.

    Args:
        dataset: Name of the dataset.
        workers: Number of stages at a time; by default as many as the cores have room for with their threads.
    """
    checked_params().dataset(dataset)
    again = ("train", "evaluate", "register")
    return _bring_up_to_date([dataset], workers, lambda stage: stage.partition("@")[0] in again)


def _bring_up_to_date(
    targets: list[str] | None,
    workers: int | None,
    force: Callable[[str], bool],
    branch: str | None = None,
    on: str | None = None,
) -> State[Any]:
    """Runs the stages and, however that ends, stops those still running and restores missing outputs from the cache."""
    hold(UUID(runtime.flow_run.id))
    try:
        with _alone_in_this_folder(), _restored_unless_completed() as outcome, all_stopped_at_the_end():
            outcome.append(_walk(targets, workers, force, branch, on))
            return outcome[0]
    except ServerError as error:
        return Failed(message=str(error))
    except KeyboardInterrupt:
        return Cancelled(message="stopped by Ctrl-C")


@contextmanager
def _restored_unless_completed() -> Iterator[list[State[Any]]]:
    """Restores what stopped or failed stages had made before, unless the block completes.

    Yields:
        A list to which the block appends its final state.
    """
    outcome: list[State[Any]] = []
    try:
        yield outcome
    finally:
        if not (outcome and outcome[0].is_completed()):
            try:
                restored = Graph(Path.cwd()).restore()
                if restored:
                    get_run_logger().info(f"brought back what these had made before: {', '.join(restored)}")
            except TrackwayError as error:
                get_run_logger().warning(str(error))


def _walk(
    targets: list[str] | None, workers: int | None, force: Callable[[str], bool], branch: str | None, on: str | None
) -> State[Any]:
    """Runs the stages and publishes what they made."""
    params = checked_params()
    remember_addresses(params)
    get_run_logger().info("looking at what is up to date")
    graph = Graph(Path.cwd())
    graph.check(params)
    if branch:
        check_publishable(params, graph, branch)
    changed = graph.changed()
    if cluster := cluster_of(params, on):
        check_stores(params, graph)
    workers = workers or (ON_CLUSTER if cluster else max(1, cpu_count() // params.threads))
    waiting = graph.order(targets)
    where = f" on {cluster}" if cluster else ""
    get_run_logger().info(f"{len(waiting)} stages, up to {workers} at a time{where}")
    with (
        _on_cluster(cluster, params, graph)
        if cluster
        else _warm_if_many(waiting, graph, changed, force, get_run_logger().info)
    ):
        states = _run_stages(waiting, workers, graph, changed, force, params)
    try:
        publish(params)
    except Exception as error:  # MLflow, Prefect or a file failed, but the stages have succeeded
        get_run_logger().warning(f"the results are not on this run's page: {type(error).__name__}: {error}")
    if branch:
        publish_results(branch)
    return _final_state(states)


def cluster_of(params: Params, on: str | None) -> str | None:
    """Returns the address of the Ray cluster that runs the stages; None if they run on this machine.

    Args:
        params: The content of params.yaml.
        on: The address that the user gave; None for that of params.yaml.

    Raises:
        ParamsError: It is no such address.
    """
    if on and not re.match(RAY_ADDRESS, on):
        raise ParamsError([f"--on is {on}; it must be the address of a Ray cluster, such as ray://HOST:10001"])
    return on or (params.flow.address if params.flow.executor == "ray" else None)


@contextmanager
def _on_cluster(place: str, params: Params, graph: Graph) -> Iterator[None]:
    """Lets the nodes of a Ray cluster run the stages in the block."""
    get_run_logger().info(f"connecting to the Ray cluster at {place}")
    cluster = RayCluster(place, params, graph)
    try:
        with stages_run_by(cluster), all_stopped_at_the_end():  # they are stopped while the cluster still answers
            yield
    finally:
        cluster.close()


@contextmanager
def _warm_if_many(
    stages: list[str],
    graph: Graph,
    changed: set[str],
    force: Callable[[str], bool],
    say: Callable[[str], None],
) -> Iterator[None]:
    """Has a warm process at hand in the block if so many stages run that it saves time.

    Args:
        stages: Each after those that it needs.
        graph: DVC's graph.
        changed: The stages that are not up to date.
        force: Whether a stage runs even if it is up to date.
        say: Tells the user that one is started.
    """
    with ExitStack() as meanwhile:
        idle = without_work(stages, graph.needs, lambda name: name in changed or force(name))
        if len(stages) - len(idle) >= MIN_STAGES_FOR_WARM and meanwhile.enter_context(preloaded()):
            say(PRELOADING)
        yield


def _run_stages(
    waiting: list[str], workers: int, graph: Graph, changed: set[str], force: Callable[[str], bool], params: Params
) -> dict[str, State[Any]]:
    """Runs each stage as soon as the stages that it needs are done, and returns the final state of each."""
    timeouts = params.flow.timeouts.model_dump()
    mlflow = _Mlflow(params)
    skipped: set[str] = set()  # they have no task
    futures: dict[str, PrefectFuture[Any]] = {}
    running: dict[PrefectFuture[Any], str] = {}
    if len(waiting) > LARGE_GRAPH:
        skipped = without_work(waiting, graph.needs, lambda name: name in changed or force(name) or mlflow.lacks(name))
        waiting = [name for name in waiting if name not in skipped]
        get_run_logger().info(f"{len(skipped)} stages are up to date and need no task")

    while waiting or running:
        done = skipped | set(futures) - set(running.values())
        for name in ready(waiting, done, graph.needs, workers - len(running)):
            needs = [futures[need] for need in graph.needs(name) if need not in skipped]
            # If a needed stage has run, DVC is asked again; if one has failed, Prefect ends the task as NotReady.
            ran = any(need.state.name != "Cached" for need in needs)
            unchanged = name not in changed and not (ran and graph.changed([name]))
            kind = name.partition("@")[0]
            again = force(name) or mlflow.lacks(name)
            future = TASKS[kind].submit(name, unchanged and not again, again, timeouts.get(kind), wait_for=needs)
            futures[name] = future
            running[future] = name
            waiting.remove(name)
        if running:
            first = next(as_completed(list(running)))
            first.wait()  # before this, its state may be out of date
            running.pop(first)
    up_to_date: dict[str, State[Any]] = dict.fromkeys(skipped, Completed(name="Cached", message="up to date"))
    return up_to_date | {name: future.state for name, future in futures.items()}


def without_work(stages: list[str], needs: Callable[[str], list[str]], has_work: Callable[[str], bool]) -> set[str]:
    """Returns the stages that need not run, because neither they nor any stage that they need, however far, have work.

    Args:
        stages: Each after those that it needs.
        needs: Returns the stages that a stage needs.
        has_work: Returns whether a stage itself must run.
    """
    found: set[str] = set()
    for name in stages:
        if all(need in found for need in needs(name)) and not has_work(name):
            found.add(name)
    return found


def ready(waiting: list[str], done: Collection[str], needs: Callable[[str], list[str]], free: int) -> list[str]:
    """Returns the stages that can start now, in their order.

    Args:
        waiting: Stages that have not started.
        done: Stages that have ended.
        needs: Returns the stages that a stage needs.
        free: Number of free workers, the largest number of stages returned.
    """
    able = (name for name in waiting if all(need in done for need in needs(name)))
    return list(islice(able, max(free, 0)))


class _Mlflow:
    """Tells what MLflow's store lacks, for example after `dvc pull` or `make clean`: DVC restores outputs, not runs.

    Once the store does not answer, it is not asked again.
    """

    def __init__(self, params: Params) -> None:
        self._params, self._answers = params, True

    def lacks(self, stage: str) -> bool:
        """Returns whether a stage must run even if it is up to date: register completes the runs of its dataset."""
        kind, _, dataset = stage.partition("@")
        if kind != "register" or not self._answers:
            return False
        try:
            return not is_complete(self._params, dataset)
        except TrackingError as error:
            self._answers = False
            get_run_logger().warning(error.as_message())
            return False


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
    """Holds the lock by which one flow at a time works in this folder, whoever starts it."""
    FLOW_LOCK.parent.mkdir(parents=True, exist_ok=True)
    waiting = "another flow is at work in this folder; waiting for it to end"
    return one_at_a_time(FileLock(FLOW_LOCK), lambda: get_run_logger().info(waiting))


def run_pipeline(
    targets: list[str] | None = None,
    workers: int | None = None,
    force: bool = False,
    branch: str | None = None,
    on: str | None = None,
    wait_for_server: Callable[[], None] = lambda: None,
) -> State[Any]:
    """Runs the flow `pipeline` from a terminal, and returns its final state.

    Args:
        targets: Stages, kinds of stages, experiments or datasets; None for all.
        workers: Number of stages at a time; None for the default.
        force: Run stages that are up to date, too.
        branch: A branch of git's origin to publish to; None for none.
        on: The address of a Ray cluster; None for what params.yaml says.
        wait_for_server: Returns when Prefect's server answers.

    Raises:
        ParamsError: params.yaml or an argument has mistakes; no flow run was started.
        GraphError: The same for dvc.yaml or dvc.lock.
    """
    params = checked_params()
    graph = Graph(Path.cwd())
    graph.check(params)
    stages = graph.order(targets)
    if params.tracking:
        address(params.tracking)  # reports an environment variable that is not set before any work
    if branch:
        check_publishable(params, graph, branch)
    if cluster_of(params, on):
        check_stores(params, graph)
    # Publishing the results needs this import; meanwhile Prefect's server starts, which takes seconds, too.
    mlflow = Thread(target=import_module, args=["mlflow.store.tracking.sqlalchemy_store"], daemon=True)
    mlflow.start()
    # So it is ready when the server answers. In a large graph looking takes longer than that.
    changed = graph.changed() if len(stages) <= LARGE_GRAPH else set()
    with nullcontext() if cluster_of(params, on) else _warm_if_many(stages, graph, changed, lambda _: force, print):
        wait_for_server()
        mlflow.join()  # a flow imports packages of MLflow's, such as FastAPI, and two threads must not do so at a time
        end_dead_runs(deployments=False)
        return pipeline(targets, workers, force, branch, on, return_state=True)


if __name__ == "__main__":
    try:
        final = run_pipeline(wait_for_server=start_temporary_server().wait)
    except TrackwayError as error:
        sys.exit(error.as_message())
    if not final.is_completed():
        sys.exit(1)
