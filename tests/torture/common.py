"""What the scenarios share: finished projects to copy, work with a known end, and a look at what was lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run
from ruamel.yaml import YAML

from tasks.tracking.names import MlflowName, Store
from tasks.tracking.report import PAGE, RECORD
from tasks.tracking.tags import DIFF, STAGE, STATE_DICT
from tests.support.project import TRACKWAY, Project, make_project, wait_until

T = TypeVar("T")
LAST_LINES = 12  # of a log, as evidence
PATIENCE = 900.0  # seconds for a command that takes 40 when nothing else runs
AT_REST = 20.0  # seconds in which every process of a project has to end

PREDICT = """
import json, sys, mlflow
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[1]}@champion")
print(model.predict(model.input_example).round(4).to_json())
"""


class Lost(Exception):
    """Something did not survive; the message is the evidence."""


class Missed(Exception):
    """The moment for a trial has passed: try again."""


@dataclass(frozen=True)
class Scenario:
    """A way to hurt a project, tried several times with other random numbers.

    trial: raises Lost if something does not survive; calls pytest.skip if this machine cannot do it.
    """

    name: str
    tries: int
    trial: Callable[[Ground, Random], None]


@dataclass(frozen=True)
class Work:
    """A command that brings a dataset up to date, and the project that it leaves if nothing disturbs it."""

    start: Project  # not to be changed
    after: Project  # not to be changed
    command: tuple[str, ...]
    dataset: str
    status: str  # DVC's after it
    seconds: float = 20.0  # that it takes

    @property
    def trained(self) -> list[str]:
        """The experiments that the command trains."""
        before = self.start.lock["stages"] if (self.start.folder / "dvc.lock").is_file() else {}
        after = self.after.lock["stages"]
        return [
            name.partition("@")[2] for name in after if name.startswith("train@") and before.get(name) != after[name]
        ]


@dataclass
class Ground:
    """A folder for trials, and a finished project from which most of them start."""

    folder: Path
    given: Project | None = None  # a finished project; without one it is made when it is needed
    until_end: ExitStack = field(default_factory=ExitStack)
    _works: dict[str, Work] = field(default_factory=dict)
    _shared: dict[Any, Any] = field(default_factory=dict)
    _copies: int = 0

    @cached_property
    def finished(self) -> Project:
        if self.given:
            return self.given
        print("making a finished project: trackway run", flush=True)
        folder = self.folder / "finished"
        folder.mkdir()
        project = make_project(folder)
        project.run(*TRACKWAY, "run")
        return project

    def shared(self, make: Callable[[Ground], AbstractContextManager[T]]) -> T:
        """What a context manager yields, which is entered once, and left when the context `until_end` ends."""
        if make not in self._shared:
            self._shared[make] = self.until_end.enter_context(make(self))
        found: T = self._shared[make]
        return found

    def copy(self, project: Project) -> Project:
        self._copies += 1
        folder = self.folder / f"{self._copies:03}"
        shutil.copytree(project.folder, folder, symlinks=True)
        return Project(folder)

    def changed(self, dataset: str, settings: dict[str, Any], *command: str) -> Work:
        """The work of a command after settings in params.yaml were changed: {"experiments.digits-mlp.epochs": 40}."""
        key = json.dumps([settings, command])
        if key not in self._works:
            start = self.copy(self.finished)
            change(start, settings)
            after = self.copy(start)
            began = time.monotonic()
            after.run(*command)
            seconds = time.monotonic() - began
            self._works[key] = Work(start, after, command, dataset, dvc_status(after), seconds)
        return self._works[key]

    def forgotten(self, dataset: str, stages: list[str], *command: str) -> Work:
        """The work of a command where DVC does not know of some stages, and MLflow of nothing at all."""
        key = json.dumps([stages, command])
        if key not in self._works:
            start = self.copy(self.finished)
            start.forget(*stages)
            shutil.rmtree(start.folder / "mlruns")
            self._works[key] = Work(start, self.finished, command, dataset, dvc_status(self.finished))
        return self._works[key]


def change(project: Project, settings: dict[str, Any]) -> None:
    """Changes settings in params.yaml and commits: {"experiments.digits-mlp.epochs": 40}."""
    yaml = YAML()
    content = yaml.load(project.read("params.yaml"))
    for key, value in settings.items():
        *sections, name = key.split(".")
        section = content
        for each in sections:
            section = section[each]
        section[name] = value
    with (project.folder / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
    project.commit("change settings")


@dataclass
class Command:
    """A command at work in a project; what it says goes into a file."""

    process: subprocess.Popen[bytes]
    file: Path

    @property
    def log(self) -> str:
        return self.file.read_text(encoding="utf-8", errors="replace")

    def end(self) -> int:
        """Waits for it; its exit code."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Lost(f"it does not end:\n{tail(self.log)}") from None


def start(project: Project, command: tuple[str, ...], **environment: str) -> Command:
    file = project.folder.with_name(f"{project.folder.name}-{time.monotonic_ns()}.log")
    with file.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=project.folder,
            env=project.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Command(process, file)


def tail(log: str) -> str:
    """The last lines, but for those that tell of an epoch."""
    lines = [line for line in log.splitlines() if ": epoch " not in line]
    return "\n".join(f"    | {line}" for line in lines[-LAST_LINES:])


def rerun_as_undisturbed(project: Project, work: Work, other_trainings: int = 0) -> None:
    """Runs the command of the work, plainly; raises Lost unless all is then as if nothing had happened.

    other_trainings: how many the project has seen beside those of the work.
    """
    command = start(project, work.command)
    code = command.end()
    found = [f"the rerun ended with {code}:\n{tail(command.log)}"] if code else []
    found += differences(project, work, other_trainings)
    if found:
        raise Lost("\n".join([*found, f"the rerun said:\n{tail(command.log)}"]))


def differences(project: Project, work: Work, other_trainings: int) -> list[str]:
    """What in a project is not as the work leaves it undisturbed."""
    found = [f"dvc.lock differs: {name}" for name in differing(project.lock["stages"], work.after.lock["stages"])]
    if (status := dvc_status(project)) != work.status:
        found.append(f"dvc status says:\n{tail(status)}")
    try:
        wait_until(lambda: not at_work(project), AT_REST)
    except AssertionError:
        for process in at_work(project):
            with suppress(psutil.Error):
                found.append(f"still at work: {' '.join(process.cmdline())}")
                process.kill()
    return found + differing_runs(project, work, other_trainings) + differing_champion(project, work)


def dvc_status(project: Project) -> str:
    return project.run("dvc", "status", check=False).stdout


def at_work(project: Project) -> list[psutil.Process]:
    """What runs in the project's folder or below it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(project.folder):
                found.append(process)
    return found


def differing(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    return sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))


def mlflow_name(project: Project, dataset: str) -> MlflowName:
    """What MLflow calls a dataset of a project."""
    params = YAML(typ="safe").load(project.read("params.yaml"))
    return Store(project.tracking_uri, params.get("project")).name(dataset)


def runs(project: Project, dataset: str) -> list[Run]:
    client = MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name(mlflow_name(project, dataset))
    return client.search_runs([experiment.experiment_id]) if experiment else []


def differing_runs(project: Project, work: Work, other_trainings: int) -> list[str]:
    """Each training has left one FINISHED run, those of the work are complete, and none is RUNNING."""
    before = {run.info.run_id for run in runs(work.start, work.dataset)} if has_store(work.start) else set()
    new = [run for run in runs(project, work.dataset) if run.info.run_id not in before]
    found = [f"run {run.info.run_id} of {run.info.run_name} is RUNNING" for run in new if run.info.status == "RUNNING"]
    finished = [run for run in new if run.info.status == "FINISHED"]
    made = Counter(map(trained_by, finished))
    expected = {trained_by(run): run for name in work.trained for run in [run_of(work.after, work.dataset, name)]}
    if not expected.keys() <= made.keys() or sorted(made.values()) != [1] * (len(expected) + other_trainings):
        found.append(f"FINISHED runs: {dict(made)}; expected: {list(expected)} and {other_trainings} more")
    for run in finished:
        if same := expected.get(trained_by(run)):
            here, there = contents(project, run), contents(work.after, same)
            found += [
                f"run {run.info.run_id} of {run.info.run_name}: {part} is {here[part]}, not {there[part]}"
                for part in differing(here, there)
            ]
    return found


def trained_by(run: Run) -> tuple[str | None, str | None]:
    """The stage, and the sha256 of the state_dict that it made."""
    return run.data.tags.get(STAGE), run.data.tags.get(STATE_DICT)


def has_store(project: Project) -> bool:
    return (project.folder / "mlruns/mlflow.db").is_file()


def run_of(project: Project, dataset: str, experiment: str) -> Run:
    """The latest FINISHED run of an experiment."""
    return next(r for r in runs(project, dataset) if r.info.run_name == experiment and r.info.status == "FINISHED")


def contents(project: Project, run: Run) -> dict[str, Any]:
    """What a run holds and two trainings of one experiment have in common; a queued one is not committed before."""
    client = MlflowClient(project.tracking_uri)
    points = {key: len(client.get_metric_history(run.info.run_id, key)) for key in run.data.metrics}
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    return {
        "params": run.data.params,
        "metrics": dict(sorted(points.items())),
        "models": [model.status for model in models],
        "artifacts": sorted(set(artifacts(client, run.info.run_id, "")) - {DIFF, PAGE, RECORD}),
    }


def artifacts(client: MlflowClient, run_id: str, folder: str) -> list[str]:
    found: list[str] = []
    for item in client.list_artifacts(run_id, folder):
        found += artifacts(client, run_id, item.path) if item.is_dir else [item.path]
    return found


def differing_champion(project: Project, work: Work) -> list[str]:
    """The champion is the one of an undisturbed run; it loads and predicts the same in a new process."""
    here, there = champion(project, work.dataset), expected_champion(work.after, work.dataset)
    return [] if here == there else [f"the champion is or predicts\n    {here}, not\n    {there}"]


@cache
def expected_champion(project: Project, dataset: str) -> str:
    """The champion of a project that does not change."""
    return champion(project, dataset)


def champion(project: Project, dataset: str) -> str:
    """The state_dict's sha256 of the dataset's champion, and what it predicts; or why it does not."""
    name = mlflow_name(project, dataset)
    done = project.run(
        "python", "-W", "ignore", "-c", PREDICT, name, check=False, MLFLOW_TRACKING_URI=project.tracking_uri
    )
    if done.returncode:
        return done.stdout.rstrip().rpartition("\n")[2]
    version = MlflowClient(project.tracking_uri).get_model_version_by_alias(name, "champion")
    return f"{version.tags.get(STATE_DICT)} {done.stdout.splitlines()[-1]}"
