"""MLflow's store is a server that goes away during a training, or a database that four trainings find empty."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import pytest

from tests.support.mlflow_server import MlflowServer
from tests.support.postgres import cluster, programs
from tests.support.project import Project, free_port
from tests.torture.common import Command, Ground, Lost, Scenario, Work, change, rerun_as_undisturbed, runs, start, tail
from tests.torture.kills import BETTER, REPRO, wait_for

LONG = BETTER | {"experiments.digits-mlp.epochs": 600}
TRAIN = ("dvc", "repro", "train@digits-mlp")
GONE = 20.0  # seconds


@dataclass(frozen=True)
class Tracked(Project):
    """A project whose runs go to a server."""

    address: str

    @property
    def tracking_uri(self) -> str:
        return self.address


@contextmanager
def server(ground: Ground) -> Iterator[MlflowServer]:
    port = free_port()
    folder = ground.folder / f"server-{port}"
    folder.mkdir()
    running = MlflowServer(folder, port)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def gone_for_a_while(ground: Ground, random: Random) -> None:
    """The training goes on, and all of it reaches the server when that is back."""
    work = ground.changed("digits", LONG, *REPRO)
    with server(ground) as mlflow:
        project, command = training(ground, work, mlflow, REPRO, random)
        time.sleep(GONE)
        mlflow.start()
        if code := command.end():
            raise Lost(f"it ended with {code}:\n{tail(command.log)}")
        rerun(project, work, command)


def gone_for_good(ground: Ground, random: Random) -> None:
    """The training keeps what it has made, and what the server missed; that is delivered to the next server."""
    work = ground.changed("digits", LONG, *REPRO)
    with server(ground) as mlflow:
        project, command = training(ground, work, mlflow, TRAIN, random)
        if code := command.end():
            raise Lost(f"it ended with {code}:\n{tail(command.log)}")
        mlflow.start()
        rerun(project, work, command)


def training(
    ground: Ground, work: Work, mlflow: MlflowServer, words: tuple[str, ...], random: Random
) -> tuple[Project, Command]:
    """A training whose server has just been killed, at a random epoch."""
    project = Tracked(ground.copy(work.start).folder, mlflow.address)
    change(project, {"tracking": mlflow.address})
    epoch = random.randrange(6, 300, 6)  # a line each six epochs
    print(f"after epoch {epoch}", end=" ", flush=True)
    command = start(project, words)
    if not wait_for(command, lambda: f"epoch {epoch}/600" in command.log):
        raise Lost(f"it ended early:\n{tail(command.log)}")
    mlflow.stop()
    return project, command


def rerun(project: Project, work: Work, command: Command) -> None:
    """The store was empty: register also logs there the run of digits-cnn, which was trained before."""
    try:
        rerun_as_undisturbed(project, work, other_trainings=1)
    except Lost as lost:
        raise Lost(f"{lost}\nthe command before it said:\n{tail(command.log)}") from None


def four_on_fresh_postgres(ground: Ground, random: Random) -> None:
    """Four trainings start at once on a database without MLflow's tables; then the rest is brought up to date."""
    if not (folder := programs()):
        pytest.skip("PostgreSQL is not here")
    work = ground.changed("digits", BETTER, *REPRO)
    with cluster(folder, free_port()) as postgres:
        address = postgres.new_database()
        project = Tracked(ground.copy(work.start).folder, address)
        change(project, {"tracking": address})
        names = ["circles-linear", "circles-relu", "blobs-linear", "line-linear"]
        commands = [start(project, ("python", "-m", "tasks.train", name)) for name in names]
        for command in commands:
            if code := command.end():
                raise Lost(f"one of four ended with {code}:\n{tail(command.log)}")
        ended = {name: [run.info.status for run in runs(project, name.partition("-")[0])] for name in names}
        if ended != {name: ["FINISHED"] * (2 if "circles" in name else 1) for name in names}:
            raise Lost(f"the runs of their datasets: {ended}")
        rerun(project, work, commands[-1])


SCENARIOS = [
    Scenario("MLflow's server gone for 20 s", 3, gone_for_a_while),
    Scenario("MLflow's server gone for good", 3, gone_for_good),
    Scenario("four trainings at once on a fresh PostgreSQL", 3, four_on_fresh_postgres),
]
