"""The one seam to MLflow: every training run's parameters, curves, state_dict, figures and model, and the champions.

Training itself does not wait for MLflow: `TrainingRun` hands each record to a process of its own
(`python -m tasks.tracking`), which imports MLflow while torch is imported and writes while the next epoch is trained.
Its standard input is also its lifeline: where it ends without a last word, training was killed; the run is marked so.

Later stages find a run by the sha256 of its state_dict; no run id travels in a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from learn.errors import TrackingError
from learn.metrics import METRICS
from tasks.stage import collect_garbage_rarely, transformed_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Run

STATE_DICT = "state_dict.sha256"  # the tag by which a run is found
TEST_DATA = "test_data.md5"
CHAMPION = "champion"
FLOW_RUN = "TRACKWAY_FLOW_RUN"  # the environment variable in which a flow tells its stages its id


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
        self._send(epoch=number, time=int(time.time() * 1000), metrics=metrics)

    def finish(self, state_dict: Path, history: Path, seconds: float) -> None:
        """The files that training wrote, and how long the epochs took."""
        self._send(state_dict=str(state_dict), history=str(history), seconds=seconds)

    def _send(self, **message: Any) -> None:
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
        _write(uri, dataset, experiment)
    except TrackingError as error:
        sys.exit(f"error: {error}")


def _write(uri: str, dataset: str, experiment: str) -> None:
    from mlflow.entities import Metric

    with _store(uri) as client:
        with _alone(uri):
            experiment_id = _experiment_id(client, uri, dataset)
        links = _links(f"train@{experiment}", dataset)
        run_id, status = None, "KILLED"
        waiting: list[Metric] = []
        flushed = 0.0
        for line in sys.stdin:
            message = json.loads(line)
            if "params" in message:
                with _alone(uri):
                    run_id = _begin(client, experiment_id, experiment, links, message)
            if run_id is None:  # training failed before it began
                continue
            if "metrics" in message:
                waiting += [Metric(k, v, message["time"], message["epoch"]) for k, v in message["metrics"].items()]
            if waiting and (time.monotonic() - flushed > 1 or "metrics" not in message):
                for start in range(0, len(waiting), 1000):  # MLflow's limit
                    client.log_batch(run_id, metrics=waiting[start : start + 1000])
                waiting, flushed = [], time.monotonic()
            if "state_dict" in message:
                _finish(client, run_id, message)
            status = message.get("end", status)
        if run_id:
            client.set_terminated(run_id, status)


def _begin(client: MlflowClient, experiment_id: str, name: str, links: Links, message: dict[str, Any]) -> str:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param
    from mlflow.tracking.context.registry import resolve_tags

    tags = resolve_tags({"mlflow.source.name": "tasks/train.py", **links.tags, **message["tags"]})
    run_id = client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
    client.log_batch(run_id, params=[Param(key, _as_text(value)) for key, value in message["params"].items()])
    dataset = Dataset(links.dataset, links.digest, "dvc", links.path)
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    client.log_text(run_id, message["summary"], "summary.txt")
    return run_id


def _finish(client: MlflowClient, run_id: str, message: dict[str, Any]) -> None:
    state_dict = Path(message["state_dict"])
    client.log_artifact(run_id, str(state_dict), "state_dict")
    client.log_artifact(run_id, message["history"], "history")
    client.log_metric(run_id, "train/seconds", message["seconds"])
    client.set_tag(run_id, STATE_DICT, sha256(state_dict))


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
        yield mlflow.MlflowClient(uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
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
            SqlAlchemyStore(f"sqlite:///{partial}", str(file.parent)).engine.dispose()
            partial.replace(file)


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
    location = (file.parent.absolute() / "artifacts" / name).as_uri() if file else None
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


def log_evaluation(
    uri: str | None,
    dataset: str,
    state_dict: Path,
    *,
    metrics: dict[str, float],
    report: dict[str, Any],
    texts: dict[str, str],
    figures: dict[str, Figure],
    model: Any,
    example: Any,
) -> None:
    """Adds to the run of a state_dict what its evaluation found. Done twice, it adds nothing.

    metrics: on the test part, without the prefix. report: what goes into report.json. model: an nn.Module on the CPU.
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
        client.set_tag(run_id, TEST_DATA, report[TEST_DATA])
        client.log_dict(run_id, report, "report.json")
        for name, text in texts.items():
            client.log_text(run_id, text, name)
        for name, figure in figures.items():
            client.log_figure(run_id, figure, f"figures/{name}.png")
        if not (run.outputs and run.outputs.model_outputs):
            _log_model(run_id, model, example)


def _log_model(run_id: str, model: Any, example: Any) -> None:
    """The model as a traced graph (pt2, no pickle) with signature, input example and the versions it needs."""
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.inference_mode():
        output = model(torch.from_numpy(example)).numpy()
    inputs, outputs = (Schema([TensorSpec(np.dtype("float32"), (-1, *array.shape[1:]))]) for array in (example, output))
    Model.log(
        artifact_path=None,
        name="model",
        flavor=mlflow.pytorch,
        run_id=run_id,
        pytorch_model=model,
        signature=ModelSignature(inputs, outputs),
        input_example=example,
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


def _create_registered_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def seconds_and_champions(
    uri: str, state_dicts: dict[tuple[str, str], str]
) -> dict[tuple[str, str], tuple[float, bool]]:
    """(dataset, experiment) → (train seconds, is champion), for the runs that MLflow has. state_dicts: their sha256."""
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
            found[dataset, experiment] = (run.data.metrics["train/seconds"], champion)
    return found


if __name__ == "__main__":
    main()
