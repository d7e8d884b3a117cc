"""Nodes of a Ray cluster, flows and servers, killed while stages run there: a plain rerun mends all.

All trials share an S3 store, MLflow's server on PostgreSQL, and the nodes. In some of them another person's flow is on
the same nodes at the same time.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from tasks.tracking.tags import CARD, STATE_DICT
from tests.support.postgres import cluster, programs
from tests.support.project import TRACKWAY, Project, free_port, wait_until
from tests.support.ray_cluster import RayNodes, ray_nodes, stages_on, warm_on
from tests.support.team import Team, User, team
from tests.torture.common import (
    Command,
    Ground,
    Lost,
    Missed,
    Scenario,
    Work,
    change,
    differences,
    differing,
    dvc_status,
    mlflow_name,
    start,
    tail,
)
from tests.torture.kills import wait, wait_for

NODES = 3
LINE = "line"
SETTINGS = {"experiments.line-linear.epochs": 3000}
# Another person's changes; what a node has computed for the first one, it would not compute again.
OTHERS = {f"experiments.{name}.optimizer.lr": 0.02 for name in ("line-linear", "line-parameters")}
STAGES = 9  # of the dataset
BEGAN = " runs on "  # in the flow's log, when a node begins a stage
LATER = 4.0  # seconds in which a kill follows the beginning of a stage
SECONDS_AWAY = 20.0  # for which a killed server stays away at most
AT_REST = 90.0  # seconds in which the nodes end what no flow waits for; Ray itself waits 30 s for a lost flow


@dataclass(frozen=True)
class Place:
    """A team's servers, the nodes, and the work of two people."""

    servers: Team
    nodes: RayNodes
    works: list[Work]

    def person(self, ground: Ground, work: Work, name: str) -> User:
        """A copy of a work's start, with names of its own in MLflow and in the S3 store."""
        user = replace(self.servers.user(ground.copy(work.start).folder), name=name)
        return own(user, user.folder.name)

    @property
    def alive(self) -> list[int]:
        """The numbers of the nodes that run stages."""
        return [number for number, process in enumerate(self.nodes.processes) if number and process.poll() is None]

    def busy(self) -> list[int]:
        return [number for number in self.alive if stages_on(self.nodes.work(number), "")]

    def wait_for_rest(self) -> list[str]:
        """What the nodes still do after a time in which they should have ended it."""
        with suppress(AssertionError):
            wait_until(lambda: not stages_on(self.nodes.folder, ""), AT_REST)
        return [f"still at work on a node: {process}" for process in stages_on(self.nodes.folder, "")]

    def forget(self) -> None:
        """Makes the nodes compute again what they have computed in another trial."""
        for number in self.alive:
            shutil.rmtree(self.nodes.work(number) / "cache", ignore_errors=True)


@contextmanager
def place(ground: Ground) -> Iterator[Place]:
    if not (folder := programs()):
        pytest.skip("PostgreSQL is not here")
    (ground.folder / "team").mkdir(exist_ok=True)
    with (
        pytest.MonkeyPatch.context() as patch,
        cluster(folder, free_port()) as postgres,
        team(ground.folder / "team", postgres, ("s3", "mlflow")) as servers,
        ray_nodes(ground.folder / "nodes", NODES) as nodes,
    ):
        for name, value in nodes.environment.items():
            patch.setenv(name, value)
        first = servers.new_project(ground.folder / "first")
        first.keep_only(LINE)
        change(first, SETTINGS)
        second = servers.user(ground.copy(first).folder)
        change(second, OTHERS)
        starts = (first, second)
        ends = [own(servers.user(ground.copy(each).folder), f"undisturbed-{each.folder.name}") for each in starts]
        command = (*TRACKWAY, "run", LINE, "--on", nodes.address)
        with ThreadPoolExecutor() as both:
            list(both.map(lambda project: project.run(*command), ends))
        works = [Work(start, end, command, LINE, dvc_status(end)) for start, end in zip(starts, ends, strict=True)]
        yield Place(servers, nodes, works)


def own(user: User, name: str) -> User:
    """A user whose project has names of its own in MLflow and in the S3 store."""
    user.edit(".dvc/config", "s3://trackway/dvc", f"s3://trackway/{name}")
    change(user, {"project": name})
    return user


def a_node(place: Place, flow: Command, random: Random) -> None:
    """Its machine is switched off; another one joins the cluster."""
    number = random.choice(place.busy() or place.alive)
    folder = place.nodes.work(number)
    warm = warm_on(place.nodes.work(number))
    place.nodes.kill(number)
    while found := [process for process in (*warm, *stages_on(folder, "")) if process.is_running()]:
        kill(found)
        psutil.wait_procs(found, 5)
    place.nodes.add()


def a_process_of_a_stage(place: Place, flow: Command, random: Random) -> None:
    """Whatever runs in a work folder: DVC, its shell, the stage, the run's writer, or a fork for one of them."""
    found = wait_for(flow, lambda: stages_on(place.nodes.folder, ""))
    kill([random.choice(found)] if found else [])


def a_warm_process(place: Place, flow: Command, random: Random) -> None:
    number = random.choice(place.busy() or place.alive)
    kill(warm_on(place.nodes.work(number)))


def the_flow(place: Place, flow: Command, random: Random) -> None:
    with suppress(ProcessLookupError):
        os.killpg(flow.process.pid, signal.SIGKILL)


def a_server(name: str, place: Place, flow: Command, random: Random) -> None:
    place.servers.kill(name)
    time.sleep(random.uniform(0, SECONDS_AWAY))
    place.servers.start_again(name)


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


@dataclass(frozen=True)
class Victim:
    """Who is killed, how often this is tried, and whose flows may fail by it."""

    name: str
    tries: int
    strike: Callable[[Place, Command, Random], None]
    may_fail: tuple[bool, bool] = (True, True)  # the flow that is hurt, and the other person's

    def trial(self, ground: Ground, random: Random) -> None:
        """Kills at a random moment of a flow, and runs it again."""
        here = ground.shared(place)
        here.forget()
        works = here.works[: random.choice([1, 1, 2])]
        people = [here.person(ground, work, name) for work, name in zip(works, ("first", "second"), strict=False)]
        number, delay = random.randint(1, STAGES), random.uniform(0, LATER)
        others = f", {len(people)} people" if len(people) > 1 else ""
        print(f"{delay:.2f} s after stage {number} of {STAGES} began{others}", end=" ", flush=True)
        flows = [start(user, work.command) for user, work in zip(people, works, strict=True)]
        hurt = flows[0]
        if moment := wait_for(hurt, lambda: hurt.log.count(BEGAN) >= number) and wait(hurt, delay):
            self.strike(here, hurt, random)
        found = [text for flow, may in zip(flows, self.may_fail, strict=False) for text in ended_badly(flow, may)]
        if not moment and not found:
            raise Missed("(it had ended)")
        again = [start(user, work.command) for user, work in zip(people, works, strict=True)]
        found += [f"the rerun ended with {code}:\n{tail(each.log)}" for each in again if (code := each.end())]
        found += here.wait_for_rest()
        for user, work in zip(people, works, strict=True):
            found += differences(user, work, 0) + differing_registry(user, work)
        if found:
            said = [f"a flow said:\n{tail(flow.log)}" for flow in (*flows, *again)]
            raise Lost("\n".join([*found, *said]))


def ended_badly(flow: Command, may_fail: bool) -> list[str]:
    """What is wrong with the end of a flow that may have been killed, or may have failed with a clear message."""
    code = flow.end()
    if code in (0, -signal.SIGKILL) if may_fail else code == 0:
        return []
    if may_fail and code == 1 and "error: the flow ended Failed" in flow.log:
        return []
    return [f"the flow ended with {code}:\n{tail(flow.log)}"]


def differing_registry(project: Project, work: Work) -> list[str]:
    """What is half registered, or not as an undisturbed run leaves it; what `trackway predict` says else."""
    here, there = (registry(each, work.dataset) for each in (project, work.after))
    return [f"in the registry {key} is\n    {here[key]}, not\n    {there[key]}" for key in differing(here, there)]


def registry(project: Project, dataset: str) -> dict[str, Any]:
    """What MLflow has of a dataset's models, without what differs from run to run."""
    client, name = MlflowClient(project.tracking_uri), mlflow_name(project, dataset)
    experiment = client.get_experiment_by_name(name)
    model = client.get_registered_model(name)
    versions = client.search_model_versions(f"name = '{name}'")
    shown = project.run(*TRACKWAY, "predict", "--model", f"{dataset}@champion", "0.5", check=False).stdout
    aliased = {alias: client.get_model_version(name, number) for alias, number in model.aliases.items()}
    logged = client.search_logged_models([experiment.experiment_id])
    return {
        "model": model.tags,
        "aliases": {alias: version.tags[STATE_DICT] for alias, version in aliased.items()},
        "versions": sorted((each.status, sorted({**each.tags, CARD: ""}.items())) for each in versions),
        "logged models": Counter(str(each.status) for each in logged),
        "predicted": shown.splitlines()[-1:],
    }


NEVER, OTHERS_NEVER = (False, False), (True, False)
VICTIMS = [
    Victim("a node", 5, a_node, NEVER),
    Victim("a process of a stage on a node", 3, a_process_of_a_stage),
    Victim("a node's warm process", 2, a_warm_process, NEVER),
    Victim("a flow whose stages run on nodes", 4, the_flow, OTHERS_NEVER),
    Victim("MLflow's server, with stages on nodes", 3, partial(a_server, "mlflow")),
    Victim("the S3 store, with stages on nodes", 3, partial(a_server, "s3")),
]
SCENARIOS = [Scenario(victim.name, victim.tries, victim.trial) for victim in VICTIMS]
