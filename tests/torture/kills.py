"""Killed with SIGKILL and run again: all ends as if nothing had happened."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from random import Random
from typing import TypeVar

import psutil

from tests.support.project import TRACKWAY, Project
from tests.torture.common import (
    PATIENCE,
    Command,
    Ground,
    Lost,
    Missed,
    Scenario,
    Work,
    rerun_as_undisturbed,
    start,
    tail,
)

T = TypeVar("T")
REPRO = ("dvc", "repro", "register@digits")
FLOW = (*TRACKWAY, "run", "digits")
BETTER = {  # than digits-cnn, the champion, if by less than chance explains: so a new one is registered
    "datasets.digits.champion.require": "better",
    "experiments.digits-mlp.model.hidden_units": [128],
    "experiments.digits-mlp.optimizer": {"name": "Adam", "lr": 0.005},
    "experiments.digits-mlp.epochs": 40,
}
VICTIMS = {  # who is killed, and a word of its command line; everybody has the empty word
    "everybody": "",
    "the training": "tasks.train",
    "the writer": "tasks.tracking",
    "the evaluation": "tasks.evaluate",
    "the registration": "tasks.register",
    "dvc": "dvc",
    "the flow": "flows.cli",
}
ROWS = {  # a number that changes when model logging and registering leave a row
    "a logged model": "SELECT count(*) FROM logged_models",
    "a model version": "SELECT count(*) FROM model_versions",
    "an alias": "SELECT sum(version) FROM registered_model_aliases",
}


def around_logging(ground: Ground, random: Random) -> None:
    """Up to 2.5 s after MLflow knows of a model whose files are still to come."""
    work = ground.changed("digits", BETTER, *random.choice([REPRO, FLOW]))
    after_a_row(ground, work, random, "a logged model", ["everybody", "the evaluation"], 2.5)


def around_registering(ground: Ground, random: Random) -> None:
    """From the start of the registration until after the alias is set."""
    work = ground.changed("digits", BETTER, *random.choice([REPRO, FLOW]))
    victims = ["everybody", "the registration"]
    if row := random.choice([None, "a model version", "an alias"]):
        after_a_row(ground, work, random, row, victims, 0.3)
        return
    delay = random.uniform(0, 5)
    victim = random.choice(victims)

    def strike(project: Project, command: Command) -> list[psutil.Process]:
        started = wait_for(command, lambda: project.processes(VICTIMS["the registration"]))
        return project.processes(VICTIMS[victim]) if started and wait(command, delay) else []

    killed(ground, work, victim, f"{delay:.2f} s after the registration started", strike)


def after_a_row(ground: Ground, work: Work, random: Random, row: str, victims: list[str], longest: float) -> None:
    """Up to so many seconds after a row has appeared in a table of MLflow."""
    delay = random.uniform(0, longest)
    victim = random.choice(victims)

    def strike(project: Project, command: Command) -> list[psutil.Process]:
        before = number(project, row)
        # They are looked for before the row appears: a look through all processes takes longer than a registration.
        found = [] if victim == "everybody" else wait_for(command, lambda: project.processes(VICTIMS[victim]))
        if not (wait_for(command, lambda: number(project, row) != before) and wait(command, delay)):
            return []
        return found or project.processes("")

    killed(ground, work, victim, f"{delay:.2f} s after {row} appeared", strike)


def anywhere(ground: Ground, random: Random) -> None:
    """At a random time, whoever it hits."""
    command = random.choice([REPRO, FLOW])
    work = ground.changed("digits", BETTER, *command)
    inner = ["the training", "the writer"]
    victim = random.choice(["everybody", *inner, "dvc", *(["the flow"] if command == FLOW else [])])
    delay = random.uniform(0, 3) if victim in inner else random.uniform(0, work.seconds)

    def strike(project: Project, command: Command) -> list[psutil.Process]:
        if victim in inner and not wait_for(command, lambda: project.processes(VICTIMS[victim])):
            return []
        return wait_for(command, lambda: project.processes(VICTIMS[victim])) if wait(command, delay) else []

    killed(ground, work, victim, f"after {delay:.2f} s", strike)


def killed(
    ground: Ground,
    work: Work,
    victim: str,
    moment: str,
    strike: Callable[[Project, Command], list[psutil.Process]],
) -> None:
    """Kills during the work and runs it again. strike: waits for the moment; the victims, none if they had ended."""
    project = ground.copy(work.start)
    print(f"{victim} of {' '.join(work.command[-2:])} {moment}", end=" ", flush=True)
    command = start(project, work.command)
    found = [process for process in strike(project, command) if process.is_running()]
    if not found:
        command.end()
        raise Missed("(it had ended)")
    while found:
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        found = project.processes("") if victim == "everybody" else []  # one of them may have started another meanwhile
    command.end()  # at once if it was killed itself; what it leaves behind is at work beside the rerun
    try:
        rerun_as_undisturbed(project, work)
    except Lost as lost:
        raise Lost(f"{lost}\nthe command that was hurt said:\n{tail(command.log)}") from None


def wait_for(command: Command, happens: Callable[[], T], seconds: float = PATIENCE) -> T:
    """What happens, once it is true; what is so when the command ends."""
    deadline = time.monotonic() + seconds
    while not (found := happens()) and command.process.poll() is None:
        if time.monotonic() > deadline:
            raise Lost(f"nothing happens:\n{tail(command.log)}")
        time.sleep(0.01)
    return found


def wait(command: Command, seconds: float) -> bool:
    """Whether the command takes so many seconds more."""
    with suppress(subprocess.TimeoutExpired):
        command.process.wait(seconds)
    return command.process.poll() is None


def number(project: Project, what: str) -> int:
    """The number in MLflow's database now; 0 if there is no such table yet."""
    file = project.folder / "mlruns/mlflow.db"
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=60)) as database,
    ):
        (found,) = database.execute(ROWS[what]).fetchone()
        return found or 0
    return 0


SCENARIOS = [
    Scenario("a kill while a model is logged", 15, around_logging),
    Scenario("a kill while a model is registered", 10, around_registering),
    Scenario("a kill anywhere", 25, anywhere),
]
