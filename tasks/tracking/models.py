"""Adds to a run what an evaluation found: metrics, figures, and the model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.tracking.delivery import open_store
from tasks.tracking.liveness import is_dead, this_process
from tasks.tracking.logged_model import log_model
from tasks.tracking.names import Store
from tasks.tracking.runs import find_run, log_datasets
from tasks.tracking.store import if_there, patiently
from tasks.tracking.tags import (
    DATA_TAGS,
    FIRST_NOTE,
    LATENCY,
    LATENCY_DEVICE,
    LATENCY_P95,
    NOTE,
    OUR_NOTE,
    PROCESS,
    THROUGHPUT,
)
from tasks.workspace.paths import transformed_folder
from tasks.workspace.report import DATA_KEYS, STATE_DICT_KEY

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from learn.latency import Latency


@patiently
def add_to_run(
    store: Store | None,
    dataset: str,
    *,
    metrics: dict[str, float],
    latency: Latency,
    tags: dict[str, str],
    note: str,
    report: dict[str, Any],
    texts: dict[str, str],
    files: dict[str, bytes],
    figures: dict[str, Figure],
    model: Any,
    about: dict[str, Any],
    example: Any,
) -> None:
    """Adds what an evaluation found to the run of the experiment and state_dict that its report names. Idempotent.

    Args:
        store: The store; None does nothing.
        dataset: Name of the dataset.
        metrics: By their full names, such as `test/accuracy`.
        latency: A run that was measured once keeps its figures, for a second measurement gives others.
        tags: Tags for the run.
        note: What its description says of the evaluation, in Markdown.
        report: Content of the artifact report.json.
        texts: File → content of other artifacts.
        files: The same for artifacts that are no text.
        figures: Name → figure.
        model: A RawInputs on the CPU, or None.
        about: What a prediction must know beside the model: classes, loss, scale and a table's columns.
        example: Inputs (B, *shape), a numpy array; B is at least 2, so that the batch dimension stays dynamic.
    """
    if not store:
        return
    with open_store(store.uri) as client:
        run = find_run(client, store.name(dataset), report["experiment"], report[STATE_DICT_KEY])
        if run is None:
            print(f"MLflow has no run of {report['experiment']}; the register stage or trackway relog rebuilds it")
            return
        run_id = run.info.run_id
        _log_metrics(client, run, metrics)
        _log_latency(client, run, latency)
        data = {split: report[key] for split, key in DATA_KEYS.items() if key in report}
        path = transformed_folder(dataset).as_posix()
        log_datasets(client, run_id, path, {split: (f"{dataset} {split}", md5) for split, md5 in data.items()})
        new_tags = {DATA_TAGS[split]: md5 for split, md5 in data.items()} | tags | _description(run, note)
        for key, value in new_tags.items():
            client.set_tag(run_id, key, value)
        client.log_dict(run_id, report, "report.json")
        for name, text in texts.items():
            client.log_text(run_id, text, name)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
                client.log_artifact(run_id, str(Path(folder, name)))
        for name, figure in figures.items():
            client.log_figure(run_id, figure, f"figures/{name}.png")
        if model is not None and not whole_model(client, run):
            for model_id in models_of(client, run):
                if not _is_being_logged(client, model_id):
                    delete_model(client, model_id)
            log_model(run, model, about, example)


def _description(run: Run, note: str) -> dict[str, str]:
    """Returns the tags with a run's description: its evaluation, then what was said before; nothing if a user wrote it.

    Args:
        run: The run.
        note: What is to be said of the evaluation.
    """
    there = run.data.tags.get(NOTE, "")
    first = run.data.tags.get(FIRST_NOTE, "")
    if there not in ("", first, run.data.tags.get(OUR_NOTE)):
        return {}
    text = "\n\n".join(filter(None, [note, first]))
    return {OUR_NOTE: text, NOTE: text}


@patiently
def log_seeds(
    store: Store | None,
    dataset: str,
    experiment: str,
    seeds: dict[int, tuple[str, dict[str, float]]],
    data: dict[str, str],
) -> None:
    """Adds the metrics of each of several seeds to the seed's own run. Idempotent.

    Args:
        store: The store; None does nothing.
        dataset: Name of the dataset.
        experiment: Name of the experiment.
        seeds: Seed → sha256 of its state_dict, and its metrics by their full names.
        data: Tags with the md5 of the splits.
    """
    if not store:
        return
    with open_store(store.uri) as client:
        for seed, (digest, metrics) in seeds.items():
            if run := find_run(client, store.name(dataset), experiment, digest, seed):
                _log_metrics(client, run, metrics)
                for key, value in data.items():
                    client.set_tag(run.info.run_id, key, value)


def _log_metrics(client: MlflowClient, run: Run, metrics: dict[str, float]) -> None:
    """Logs those metrics that the run does not have, or has with other values."""
    for key, value in metrics.items():
        if run.data.metrics.get(key) != value:
            client.log_metric(run.info.run_id, key, value, step=int(run.data.params["epochs"]))


def _log_latency(client: MlflowClient, run: Run, latency: Latency) -> None:
    """Logs how fast the model is, unless the run has that; the figure that the gate asks for comes last."""
    if LATENCY in run.data.metrics:
        return
    client.set_tag(run.info.run_id, LATENCY_DEVICE, latency.device)
    _log_metrics(client, run, {LATENCY_P95: latency.p95, THROUGHPUT: latency.throughput, LATENCY: latency.median})


def models_of(client: MlflowClient, run: Run) -> list[str]:
    """Returns the ids of all models that were logged for a run, latest first, even those that are not whole."""
    of_run = f"source_run_id = '{run.info.run_id}'"
    return [model.model_id for model in client.search_logged_models([run.info.experiment_id], of_run)]


def delete_model(client: MlflowClient, model_id: str) -> None:
    """Removes a logged model from MLflow's page; `mlflow gc` deletes its files."""
    if_there(lambda: client.delete_logged_model(model_id))


def _is_being_logged(client: MlflowClient, model_id: str) -> bool:
    """Returns whether another process is about to make a model whole: an evaluation with the same state_dict.

    A model that this process has begun is one that it could not finish, for MLflow or its artifact store went away.
    """
    from mlflow.entities import LoggedModelStatus

    logged = if_there(lambda: client.get_logged_model(model_id))
    if logged is None or logged.status != LoggedModelStatus.PENDING or PROCESS not in logged.tags:
        return False
    process = logged.tags[PROCESS]
    return process != this_process() and not is_dead(process, logged.creation_timestamp)


def whole_model(client: MlflowClient, run: Run) -> str | None:
    """Returns the id of a run's model; None if there is none that is whole.

    MLflow links a model to its run before it has stored the model's files; until then it does not count.
    """
    return next((model_id for model_id in models_of(client, run) if not why_broken(client, model_id)), None)


def why_broken(client: MlflowClient, model_id: str) -> str | None:
    """Returns why a logged model cannot be loaded, as far as the store can tell; None if it is whole."""
    from mlflow.entities import LoggedModelStatus
    from mlflow.models import Model
    from mlflow.models.model import MLMODEL_FILE_NAME

    logged = if_there(lambda: client.get_logged_model(model_id))
    if logged is None:
        return "it was deleted"
    if logged.status != LoggedModelStatus.READY:
        return f"MLflow calls it {logged.status}, for it was never logged as a whole"
    sizes = _sizes(client, model_id)
    if MLMODEL_FILE_NAME not in sizes:
        return f"its file {MLMODEL_FILE_NAME} is not in the artifact store"
    expected = Model.load(f"models:/{model_id}").model_size_bytes or 0  # size of the weights and the input example
    if (found := sum(sizes.values())) < expected:
        return f"of its {expected:,} bytes {found:,} are in the artifact store"
    return None


def _sizes(client: MlflowClient, model_id: str, folder: str | None = None) -> dict[str, int]:
    """Returns the files of a logged model, each with its size in bytes."""
    sizes: dict[str, int] = {}
    for item in client.list_logged_model_artifacts(model_id, folder):
        sizes |= _sizes(client, model_id, item.path) if item.is_dir else {item.path: item.file_size or 0}
    return sizes
