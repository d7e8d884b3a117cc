"""The one seam to MLflow: every training run's parameters, curves, state_dict, figures and model, and the champions.

Training itself does not wait for MLflow: `TrainingRun` hands each record to a process of its own
(`python -m tasks.tracking`), which imports MLflow while torch is imported and writes while the next epoch is trained.
Its standard input is also its lifeline: where it ends without a last word, training was killed; the run is marked so.
Where both were killed, the next to write marks the run, which names its process.

Later stages find a run by the sha256 of its state_dict; no run id travels in a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from learn.errors import TrackingError
from learn.metrics import METRICS
from tasks.stage import REPORT, collect_garbage_rarely, end_at_once, transformed_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Run

STATE_DICT = "state_dict.sha256"  # the tag by which a run is found
TEST_DATA = "test_data.md5"
REBUILT = "trackway.rebuilt"  # the tag of a run that was not written while it was trained
PROCESS = "trackway.process"  # the tag that names the process which writes a run: host, pid, when it was created
CHAMPION = "champion"
ARTIFACTS = "artifacts"  # the folder beside the database
BETWEEN_SENDS = 1.0  # seconds; a training of a thousand epochs a second does not wait for a thousand messages
CLOCK_SET = 60.0  # seconds; a clock that is set moves the time at which a process seems to have been created
MOST_RUNS = 1000  # looked at to find those that were killed; more than can run
FLOW_RUN = "TRACKWAY_FLOW_RUN"  # the environment variables in which a flow tells its stages its id and its page
FLOW_RUN_URL = "TRACKWAY_FLOW_RUN_URL"


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optimizer": {"lr": 0.1}} → {"optimizer.lr": 0.1}; None stays out, a list stays whole."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif value is not None:
            flat[prefix + key] = value
    return flat


# ---- in the training process: MLflow is not imported here


class TrainingRun:
    """A run that is being trained. With uri None nothing is tracked, and nothing else changes."""

    def __init__(self, uri: str | None, dataset: str, experiment: str) -> None:
        self._writer: subprocess.Popen[str] | None = None
        self._epochs: list[dict[str, Any]] = []  # not sent yet
        self._sent_at = 0.0
        if uri:
            command = [sys.executable, "-m", "tasks.tracking", uri, dataset, experiment]
            self._writer = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
            self._sender = ThreadPoolExecutor(1)  # a pipe holds little, and its reader may still be importing
            self._sent: deque[Future[None]] = deque()

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Returns when MLflow has everything; raises TrackingError where it could not take it."""
        if not self._writer:
            return
        if kind is None:
            self._send(end="FINISHED")
        elif not issubclass(kind, KeyboardInterrupt | TrackingError):
            self._send(end="FAILED")
        self._sender.shutdown()
        assert self._writer.stdin
        with suppress(BrokenPipeError):
            self._writer.stdin.close()
        if self._writer.wait() and kind is None:
            raise TrackingError(STORE_FAILED)

    def begin(self, params: dict[str, Any], tags: dict[str, str], summary: str) -> None:
        """params: flattened; tags: what else is known before the first epoch; summary: torchinfo's, as text."""
        self._send(params=params, tags=tags, summary=summary)

    def log_epoch(self, number: int, metrics: dict[str, float]) -> None:
        self._epochs.append({"number": number, "time": int(time.time() * 1000), "metrics": metrics})
        if time.monotonic() - self._sent_at > BETWEEN_SENDS:
            self._send()

    def finish(self, state_dict: Path, history: Path, seconds: float) -> None:
        """The files that training wrote, and how long the epochs took."""
        self._send(state_dict=str(state_dict), history=str(history), seconds=seconds)

    def _send(self, **message: Any) -> None:
        message["epochs"], self._epochs = self._epochs, []
        self._sent_at = time.monotonic()
        if self._writer:
            while self._sent and self._sent[0].done():
                self._sent.popleft().result()
            self._sent.append(self._sender.submit(self._write, json.dumps(message) + "\n"))

    def _write(self, line: str) -> None:
        assert self._writer
        assert self._writer.stdin
        try:
            self._writer.stdin.write(line)
            self._writer.stdin.flush()
        except BrokenPipeError:
            raise TrackingError(STORE_FAILED) from None


STORE_HINT = "tracking: null in params.yaml trains without it"
STORE_FAILED = f"the run could not be written to MLflow; its message stands above ({STORE_HINT})"


# ---- in the writing process


def main() -> None:
    """Reads messages, one JSON object a line, until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of training ends this process, nothing else
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    collect_garbage_rarely()
    uri, dataset, experiment = sys.argv[1:]
    try:
        write_run(uri, dataset, experiment, _messages(sys.stdin))
    except TrackingError as error:
        sys.exit(f"error: {error}")
    end_at_once()


def _messages(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """One JSON object a line, but for a last line that a kill cut short."""
    for line in lines:
        if line.endswith("\n"):
            yield json.loads(line)


def write_run(uri: str, dataset: str, experiment: str, messages: Iterable[dict[str, Any]]) -> None:
    """Writes a run as TrainingRun's messages tell it, one after the other."""
    from mlflow.entities import Metric

    with _store(uri) as client:
        _mark_killed_runs(client)
        with _alone(uri):
            experiment_id = _experiment_id(client, uri, dataset)
        links = _links(f"train@{experiment}", dataset)
        run_id, status = None, "KILLED"
        for message in messages:
            if "params" in message:
                with _alone(uri):
                    run_id = _begin(client, experiment_id, experiment, links, message)
            if run_id is None:  # training failed before it began
                continue
            metrics = [
                Metric(key, value, epoch["time"], epoch["number"])
                for epoch in message["epochs"]
                for key, value in epoch["metrics"].items()
            ]
            for start in range(0, len(metrics), 1000):  # MLflow's limit
                client.log_batch(run_id, metrics=metrics[start : start + 1000])
            if "state_dict" in message:
                _finish(client, run_id, message)
            status = message.get("end", status)
        if run_id:
            client.set_terminated(run_id, status)


def _begin(client: MlflowClient, experiment_id: str, name: str, links: Links, message: dict[str, Any]) -> str:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param
    from mlflow.tracking.context.registry import resolve_tags

    tags = {"mlflow.source.name": "tasks/train.py", PROCESS: _this_process(), **links.tags, **message["tags"]}
    if REBUILT not in tags:  # or they would name the user and the commit of now
        tags = resolve_tags(tags)
    run_id = client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
    client.log_batch(run_id, params=[Param(key, _as_text(value)) for key, value in message["params"].items()])
    dataset = Dataset(links.dataset, links.digest, "dvc", links.path)
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    client.log_text(run_id, message["summary"], "summary.txt")
    if (report := Path(links.path) / REPORT).is_file():
        client.log_artifact(run_id, str(report), "data")
    return run_id


def _finish(client: MlflowClient, run_id: str, message: dict[str, Any]) -> None:
    state_dict = Path(message["state_dict"])
    for file in sorted(state_dict.parent.glob("*.pt")):  # with early stopping the best epoch's, and the last one's
        client.log_artifact(run_id, str(file), "state_dict")
    client.log_artifact(run_id, message["history"], "history")
    if "seconds" in message:
        client.log_metric(run_id, "train/seconds", message["seconds"])
    client.set_tag(run_id, STATE_DICT, sha256(state_dict))


def _this_process() -> str:
    import psutil

    return json.dumps([socket.gethostname(), os.getpid(), psutil.Process().create_time()])


def _is_dead(process: str) -> bool:
    """Whether a process that a run names was one of this host and is no more. Of other hosts nothing is known."""
    import psutil

    host, pid, created = json.loads(process)
    if host != socket.gethostname():
        return False
    try:
        found = psutil.Process(pid)
        if found.status() == psutil.STATUS_ZOMBIE:
            return True
        return found.create_time() > created + CLOCK_SET  # another process has got its number
    except psutil.NoSuchProcess:
        return True


def _mark_killed_runs(client: MlflowClient) -> None:
    """Runs whose process was killed before it could say how they ended."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for run in client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=MOST_RUNS):
        process = run.data.tags.get(PROCESS)
        # Asked again once the process is known to be dead: it may have ended its run between the two looks.
        if process and _is_dead(process) and client.get_run(run.info.run_id).info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Links:
    """What ties a run to DVC, git and Prefect."""

    dataset: str
    path: str
    digest: str
    tags: dict[str, str]


def _links(stage_name: str, dataset: str) -> Links:
    """DVC's md5 of the data and code that the stage reads, as they are now."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    path = transformed_folder(dataset).as_posix()
    tags = {"dvc.stage": stage_name}
    if flow_run := os.environ.get(FLOW_RUN):
        tags["prefect.flow_run"] = flow_run
    if url := os.environ.get(FLOW_RUN_URL):
        tags["mlflow.note.content"] = f"[Prefect flow run]({url})"  # what MLflow's page shows as the description
    hashes: dict[str, str] = {}
    try:
        with Repo() as repo:
            stage = repo.stage.load_one("dvc.yaml", name=stage_name)
            stage.save_deps()
            hashes = {d.def_path: d.hash_info.value for d in stage.deps if d.hash_info and d.hash_info.name == "md5"}
    except DvcException as error:  # run by hand, outside DVC's graph
        tags["dvc.error"] = str(error)
    digest = hashes.pop(path, "unversioned")
    tags["dvc.data.md5"] = digest
    tags["dvc.code.md5"] = json.dumps(hashes)
    return Links(dataset, path, digest, tags)


# ---- the store


def prepare_store(uri: str) -> None:
    """For whoever starts a server on the store: makes it where it is missing, and mends what moved or was killed."""
    with _store(uri) as client:
        _mark_killed_runs(client)


@contextmanager
def _store(uri: str) -> Iterator[MlflowClient]:
    """A client of the store, made where it is missing. MLflow's failures come out as TrackingError."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    import logging

    logging.getLogger("alembic").setLevel("WARNING")
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    mlflow.set_tracking_uri(uri)
    try:
        if file := _sqlite_file(uri):
            _make_store(file)
            _move_store(uri, file)
        yield mlflow.MlflowClient(uri)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        text = " ".join(str(error).split())
        raise TrackingError(f"the MLflow store {uri} cannot be used: {text[:500]} ({STORE_HINT})") from error


def _sqlite_file(uri: str) -> Path | None:
    """sqlite:///mlruns/mlflow.db → mlruns/mlflow.db; None for a server."""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)) if uri.startswith(prefix) else None


def _make_store(file: Path) -> None:
    """MLflow's tables, whole or not at all: it makes them in dozens of steps, which two processes must not do at once,
    and which a kill would leave half done for ever."""
    if file.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file.parent.mkdir(parents=True, exist_ok=True)
    with _alone(f"sqlite:///{file}"):
        if not file.exists():
            partial = file.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            SqlAlchemyStore(f"sqlite:///{partial}", _artifacts(file)).engine.dispose()
            partial.replace(file)


def _artifacts(file: Path) -> str:
    """Where the artifacts are, beside the database; MLflow records only absolute locations."""
    return (file.parent.resolve() / ARTIFACTS).as_uri()


def _move_store(uri: str, file: Path) -> None:
    """Where the project's folder was moved, copied or renamed: its artifacts are those beside the database, not those
    in the folder that MLflow recorded."""
    with closing(sqlite3.connect(file, timeout=60)) as database:
        if not _elsewhere(database, file):
            return
        with _alone(uri), database:
            for recorded in _elsewhere(database, file):
                old = Path(unquote(recorded.removeprefix("file://"))).parent
                new = file.parent.resolve()
                _replace_prefix(database, f"{old.as_uri()}/", f"{new.as_uri()}/")
                _replace_prefix(database, f"{old}/", f"{new}/")


def _elsewhere(database: sqlite3.Connection, file: Path) -> set[str]:
    """The folders of artifacts that experiments name and that are not this store's."""
    locations = [location for (location,) in database.execute("SELECT artifact_location FROM experiments")]
    folders = {
        f"{before}/{ARTIFACTS}"
        for before, found, name in (location.rpartition(f"/{ARTIFACTS}/") for location in locations if location)
        if found and before.startswith("file:///") and "/" not in name
    }
    return folders - {_artifacts(file)}


def _replace_prefix(database: sqlite3.Connection, old: str, new: str) -> None:
    """In every column of text: MLflow has such locations in five tables, and another version may have more."""
    columns = database.execute(
        "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c "
        "WHERE t.type = 'table' AND (c.type LIKE '%CHAR%' OR c.type LIKE '%TEXT%')"
    ).fetchall()
    for table, column in columns:
        database.execute(
            f'UPDATE "{table}" SET "{column}" = ?1 || substr("{column}", length(?2) + 1) '
            f'WHERE substr("{column}", 1, length(?2)) = ?2',
            (new, old),
        )


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time: where MLflow makes what is missing it looks first, and two may look at once.

    A server is one process already. The lock is the operating system's, so a kill releases it.
    """
    from filelock import FileLock

    file = _sqlite_file(uri)
    with FileLock(file.with_suffix(".lock")) if file else nullcontext():
        yield


def _experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The MLflow experiment of a dataset, made where it is missing."""
    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    file = _sqlite_file(uri)
    location = f"{_artifacts(file)}/{name}" if file else None
    return client.create_experiment(name, artifact_location=location)


def _find_run(client: MlflowClient, dataset: str, digest: str) -> Run | None:
    """The latest run of a dataset with this state_dict."""
    experiment = client.get_experiment_by_name(dataset)
    if not experiment:
        return None
    runs = client.search_runs(
        [experiment.experiment_id],
        f"tags.`{STATE_DICT}` = '{digest}'",
        max_results=1,
        order_by=["start_time DESC"],
    )
    return runs[0] if runs else None


# ---- for the stages after training


def missing_parts(uri: str, dataset: str, state_dict: Path) -> set[str]:
    """Which of `train` and `evaluate` have not written their part of the run of a state_dict."""
    with _store(uri) as client:
        run = _find_run(client, dataset, sha256(state_dict))
        if run is None:
            return {"train", "evaluate"}
        return set() if run.outputs and run.outputs.model_outputs else {"evaluate"}


def log_evaluation(
    uri: str | None,
    dataset: str,
    state_dict: Path,
    *,
    metrics: dict[str, float],
    tags: dict[str, str],
    report: dict[str, Any],
    texts: dict[str, str],
    figures: dict[str, Figure],
    model: Any,
    about: dict[str, Any],
    example: Any,
) -> None:
    """Adds to the run of a state_dict what its evaluation found. Done twice, it adds nothing.

    metrics: on the test part, without the prefix. report: what goes into report.json. model: an nn.Module on the CPU.
    about: what a prediction must know and the model's signature does not say: classes and loss.
    example: inputs (B, *shape) float32, a numpy array, B at least 2 so that the batch dimension stays dynamic.
    """
    if not uri:
        return
    with _store(uri) as client:
        run = _find_run(client, dataset, sha256(state_dict))
        if run is None:
            print(f"MLflow has no run of {state_dict}: it was trained elsewhere or without tracking")
            return
        run_id = run.info.run_id
        new = {f"test/{k}": v for k, v in metrics.items() if run.data.metrics.get(f"test/{k}") != v}
        for key, value in new.items():
            client.log_metric(run_id, key, value, step=int(run.data.params["epochs"]))
        for key, value in {TEST_DATA: report[TEST_DATA], **tags}.items():
            client.set_tag(run_id, key, value)
        client.log_dict(run_id, report, "report.json")
        for name, text in texts.items():
            client.log_text(run_id, text, name)
        for name, figure in figures.items():
            client.log_figure(run_id, figure, f"figures/{name}.png")
        if not (run.outputs and run.outputs.model_outputs):
            _log_model(run, model, about, example)


def _log_model(run: Run, model: Any, about: dict[str, Any], example: Any) -> None:
    """The model as a traced graph (pt2, no pickle) with signature, input example and the versions it needs."""
    import mlflow
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.inference_mode():
        output = model(torch.from_numpy(example)).numpy()
    inputs, outputs = (Schema([TensorSpec(np.dtype("float32"), (-1, *array.shape[1:]))]) for array in (example, output))
    mlflow.set_experiment(experiment_id=run.info.experiment_id)  # or the model goes to the experiment `Default`
    Model.log(
        artifact_path=None,
        name="model",
        flavor=mlflow.pytorch,
        run_id=run.info.run_id,
        tags={"mlflow.source.name": "tasks/evaluate.py"},  # and not the absolute path
        pytorch_model=model,
        signature=ModelSignature(inputs, outputs),
        input_example=example,
        metadata=about,
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
        serialization_format="pt2",
    )


@dataclass(frozen=True)
class Candidate:
    """A dataset's best experiment, as its evaluation describes it."""

    experiment: str
    metric: str
    value: float
    state_dict: str  # sha256
    test_data: str  # md5


def register_champion(uri: str | None, dataset: str, best: Candidate) -> str:
    """Gives the alias `champion` to the candidate where it beats the present one; returns what happened, as a sentence.

    It wins where there is no champion, where it is better by its metric, or where the present one was measured on other
    test data. Stopped anywhere and called again, it ends in the same state.
    """
    if not uri:
        return "no champion: tracking is off"
    from mlflow.exceptions import MlflowException

    with _store(uri) as client, _alone(uri):
        run = _find_run(client, dataset, best.state_dict)
        if run is None or not (run.outputs and run.outputs.model_outputs):
            return (
                f"no champion: MLflow has no model of {best.experiment}; it was trained elsewhere or without tracking"
            )
        try:
            current = client.get_model_version_by_alias(dataset, CHAMPION)
        except MlflowException:  # no such model, or no such alias
            current = None
        if current:
            if current.tags[STATE_DICT] == best.state_dict:
                return f"{best.experiment} stays champion (version {current.version})"
            value = client.get_run(current.run_id).data.metrics.get(f"test/{best.metric}")
            same_test = current.tags[TEST_DATA] == best.test_data
            if same_test and value is not None and not METRICS[best.metric].beats(best.value, value):
                return (
                    f"{current.tags['experiment']} (version {current.version}, {best.metric} {value:.4f}) "
                    f"stays champion; {best.experiment} has {best.value:.4f}"
                )
        else:
            _create_registered_model(client, dataset)
        versions = client.search_model_versions(f"name = '{dataset}'")
        version = next((v for v in versions if v.tags.get(STATE_DICT) == best.state_dict), None)
        if version is None:
            model_id = run.outputs.model_outputs[-1].model_id
            version = client.create_model_version(
                dataset,
                f"models:/{model_id}",
                run.info.run_id,
                model_id=model_id,
                tags={
                    "experiment": best.experiment,
                    STATE_DICT: best.state_dict,
                    TEST_DATA: best.test_data,
                    f"test/{best.metric}": repr(best.value),
                },
            )
        client.set_registered_model_alias(dataset, CHAMPION, version.version)
        return f"{best.experiment} is champion (version {version.version}, {best.metric} {best.value:.4f})"


@dataclass(frozen=True)
class About:
    """What is stored with a model: the loss it was trained with, its classes, and the shape of one input."""

    loss: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]


def load_model(uri: str, name: str) -> tuple[Any, About]:
    """A registered model, NAME@ALIAS or NAME/VERSION, as a function of float32 tensors (B, *shape).

    Raises TrackingError where there is none, with those that there are.
    """
    from mlflow.exceptions import MlflowException

    with _store(uri) as client:
        import mlflow.pytorch

        try:
            model = mlflow.pytorch.load_model(f"models:/{name}")
            info = mlflow.models.get_model_info(f"models:/{name}")
        except (MlflowException, ValueError) as error:
            known = [
                f"{model.name}@{alias}" for model in client.search_registered_models() for alias in model.aliases
            ] or ["none yet: `dvc repro` registers the best of each dataset"]
            raise TrackingError(f"{name} is no registered model; there is {', '.join(known)}") from error
    about = info.metadata or {}
    shape = info.signature.inputs.inputs[0].shape[1:] if info.signature else ()
    return model, About(about.get("loss", ""), tuple(about.get("classes", ())), tuple(shape))


def _create_registered_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


@dataclass(frozen=True)
class Tracked:
    """What MLflow alone knows of an experiment's state_dict."""

    page: str  # of the run, below the MLflow server's address
    seconds: float | None  # of training; None for a run that was rebuilt
    champion: bool


def tracked(uri: str, state_dicts: dict[tuple[str, str], str]) -> dict[tuple[str, str], Tracked]:
    """(dataset, experiment) → what MLflow has of it, if it has. state_dicts: their sha256."""
    from mlflow.exceptions import MlflowException

    found = {}
    with _store(uri) as client:
        for (dataset, experiment), digest in state_dicts.items():
            run = _find_run(client, dataset, digest)
            if run is None:
                continue
            try:
                champion = client.get_model_version_by_alias(dataset, CHAMPION).tags[STATE_DICT] == digest
            except MlflowException:
                champion = False
            page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
            found[dataset, experiment] = Tracked(page, run.data.metrics.get("train/seconds"), champion)
    return found


if __name__ == "__main__":
    main()
