"""The flow: walks DVC's graph and runs each stage as a Prefect task, as soon as what it needs is done.

    python -m flows.pipeline            # everything in params.yaml; `trackway run` does the same and prints the results

The graph is DVC's, read from it; a task runs `dvc repro --single-item STAGE`, and DVC decides what is up to date.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import networkx as nx
from dvc.repo import Repo
from dvc.stage import PipelineStage
from prefect import Task, flow, get_run_logger, runtime
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Failed

from learn.errors import ParamsError, TrackwayError, did_you_mean
from tasks.stage import checked_params
from tasks.tracking import FLOW_RUN

LAST_LINES = 20  # of a failed stage's output, in the message of the flow's final state


class StageFailed(Exception):
    """A stage ended with an error; its text holds the last lines that the stage printed."""


class Graph:
    """DVC's stages, what each needs, and which are not up to date, as DVC sees them when the flow starts."""

    def __init__(self, root: Path) -> None:
        self.repo = Repo(str(root))
        stages = [stage for stage in self.repo.index.stages if isinstance(stage, PipelineStage)]
        self.stages: dict[str, PipelineStage] = {stage.addressing: stage for stage in stages}
        self._graph = self.repo.index.graph  # an edge leads from a stage to one that it needs
        with self.repo.lock:
            self.changed = {name for name, stage in self.stages.items() if stage.changed()}

    def needs(self, name: str) -> list[str]:
        return [stage.addressing for stage in self._graph.successors(self.stages[name])]

    def order(self, targets: Iterable[str] | None) -> list[str]:
        """The stages that the targets need, these first; all of them without targets.

        A target: a stage (train@digits-mlp), a kind of stage (train), an experiment (digits-mlp) or a dataset (digits).
        """
        wanted = set(self.stages) if not targets else set()
        for target in targets or ():
            matching = {name for name in self.stages if target in (name, *name.split("@"))}
            if not matching:
                words = {word for name in self.stages for word in (name, *name.split("@"))}
                raise ParamsError(
                    [
                        f"target {target} is no stage, dataset or experiment{did_you_mean(target, words)}; "
                        "`dvc stage list` shows the stages"
                    ]
                )
            wanted |= matching
        wanted |= {need.addressing for name in wanted for need in nx.descendants(self._graph, self.stages[name])}
        return [
            stage.addressing for stage in reversed(list(nx.topological_sort(self._graph))) if stage.addressing in wanted
        ]


def run_stage(name: str, up_to_date: bool, force: bool) -> State[Any]:
    """Runs one stage in a process of its own. One that is up to date ends as `Cached`. Raises StageFailed."""
    if up_to_date:
        return Completed(name="Cached", message="up to date")
    log = get_run_logger()
    options = ["--quiet", "--single-item", *(["--force"] if force else [])]
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *options, name]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # dvc.yaml says python
        "PYTHONUNBUFFERED": "1",
        FLOW_RUN: str(runtime.flow_run.id),
    }
    last: deque[str] = deque(maxlen=LAST_LINES)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        errors="replace",
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if line := line.rstrip():
                last.append(line)
                log.info(line)
    if process.returncode:
        raise StageFailed(f"{name} failed with exit code {process.returncode}:\n" + "\n".join(last))
    if not last:  # every stage that runs says something, and --quiet keeps DVC from it
        return Completed(name="Cached", message="up to date, or restored from DVC's cache")
    return Completed(message=last[-1])


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


TASKS = {kind: _task(kind) for kind in ("download", "split", "transform", "train", "evaluate", "register")}


def _run_name() -> str:
    return f"pipeline: {', '.join(runtime.flow_run.parameters['targets'] or ['everything'])}"


@flow(flow_run_name=_run_name)
def pipeline(targets: list[str] | None = None, workers: int | None = None, force: bool = False) -> State[Any]:
    """Brings everything in params.yaml up to date, or the targets and what they need.

    workers: stages at a time; by default so that workers × threads = cores. force: run also what is up to date.
    """
    params = checked_params()
    workers = workers or max(1, (os.cpu_count() or 1) // params.threads)
    graph = Graph(Path.cwd())
    waiting = graph.order(targets)
    futures: dict[str, PrefectFuture[Any]] = {}
    running: dict[PrefectFuture[Any], str] = {}

    while waiting or running:
        ready = [name for name in waiting if all(n in futures and n not in running.values() for n in graph.needs(name))]
        for name in ready[: workers - len(running)]:
            needs = [futures[need] for need in graph.needs(name)]
            # Where a need was run, DVC looks again; where one failed, Prefect ends the task as NotReady.
            up_to_date = not force and name not in graph.changed and all(n.state.name == "Cached" for n in needs)
            future = TASKS[name.partition("@")[0]].submit(name, up_to_date, force, wait_for=needs)
            futures[name] = future
            running[future] = name
            waiting.remove(name)
        if running:
            done = next(as_completed(list(running)))
            done.wait()  # until then its state is what the server last heard
            running.pop(done)
    states = {name: future.state for name, future in futures.items()}
    if not all(state.is_completed() for state in states.values()):
        failed = [
            state.message or name for name, state in states.items() if state.is_final() and not state.is_completed()
        ]
        left = [name for name, state in states.items() if not state.is_final()]
        if left:
            failed.append(f"not run, for they need it: {', '.join(left)}")
        return Failed(message="\n\n".join(failed))
    cached = sum(state.name == "Cached" for state in states.values())
    return Completed(message=f"{len(futures)} stages: {len(futures) - cached} run, {cached} up to date")


def run_pipeline(targets: list[str] | None = None, workers: int | None = None, force: bool = False) -> State[Any]:
    """The flow from a terminal; returns its final state. Raises ParamsError before Prefect is bothered."""
    checked_params()
    if targets:
        Graph(Path.cwd()).order(targets)
    return pipeline(targets, workers, force, return_state=True)


if __name__ == "__main__":
    try:
        final = run_pipeline()
    except TrackwayError as error:
        sys.exit(error.as_message())
    if not final.is_completed():
        sys.exit(1)
