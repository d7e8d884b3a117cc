"""Asks MLflow which parts of runs it lacks, and what only MLflow knows of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.tracking.delivery import open_store
from tasks.tracking.models import whole_model
from tasks.tracking.names import MlflowName, Store
from tasks.tracking.runs import find_run, restore_experiment
from tasks.tracking.store import all_pages, patiently, told_if_slow
from tasks.tracking.tags import (
    CHALLENGER,
    CHAMPION,
    DATA_MD5,
    DECISION,
    LAST_REPORT,
    LATENCY,
    LATENCY_DEVICE,
    LATENCY_P95,
    NO_MODEL,
    PARENT,
    REPORT,
    STATE_DICT,
    TEST_DATA,
    THROUGHPUT,
)
from tasks.tracking.versions import is_model_of, version_with

if TYPE_CHECKING:
    from mlflow import MlflowClient


@patiently
def missing_parts(store: Store, dataset: str, state_dicts: dict[str, str]) -> dict[str, set[str]]:
    """Returns experiment → stages (`train`, `evaluate`) whose part of its run is missing, for incomplete runs only.

    Args:
        store: The store.
        dataset: Name of the dataset.
        state_dicts: Experiment → sha256 of its state_dict.
    """
    missing = {}
    with open_store(store.uri) as client:
        if found := client.get_experiment_by_name(store.name(dataset)):
            restore_experiment(client, found)
        for experiment, digest in state_dicts.items():
            run = find_run(client, store.name(dataset), experiment, digest)
            if run is None:
                missing[experiment] = {"train", "evaluate"}
            elif LATENCY not in run.data.metrics or (NO_MODEL not in run.data.tags and not whole_model(client, run)):
                missing[experiment] = {"evaluate"}
    return missing


@dataclass(frozen=True)
class MeasuredLatency:
    """What a run says of how fast its model is."""

    median: float  # milliseconds for one sample
    device: str  # such as `cpu, 1 thread`


@patiently
def latencies(store: Store, dataset: str, state_dicts: dict[str, str]) -> dict[str, MeasuredLatency]:
    """Returns experiment → the latency that its run has, for those whose run has one.

    Args:
        store: The store.
        dataset: Name of the dataset.
        state_dicts: Experiment → sha256 of its state_dict.
    """
    with open_store(store.uri) as client:
        runs = {name: find_run(client, store.name(dataset), name, digest) for name, digest in state_dicts.items()}
    return {
        name: MeasuredLatency(run.data.metrics[LATENCY], run.data.tags.get(LATENCY_DEVICE, ""))
        for name, run in runs.items()
        if run and LATENCY in run.data.metrics
    }


@patiently
def models_judged(store: Store, dataset: str, md5: str) -> int:
    """Returns how many different models were measured on a test split, as far as the store knows.

    The more there are, the likelier it is that the best of them was only lucky on these samples.

    Args:
        store: The store.
        dataset: Name of the dataset.
        md5: md5 of the samples of the split.
    """
    with open_store(store.uri) as client:
        experiment = client.get_experiment_by_name(store.name(dataset))
        return _judged(client, experiment.experiment_id, md5) if experiment else 0


def _judged(client: MlflowClient, experiment_id: str, md5: str) -> int:
    where = {"experiment_ids": [experiment_id], "filter_string": f"tags.`{TEST_DATA}` = '{md5}'"}
    runs = all_pages(client.search_runs, **where) if md5 else []
    parents = {run.data.tags.get(PARENT) for run in runs}
    own = [run for run in runs if run.info.run_id not in parents]
    return len({run.data.tags.get(STATE_DICT, run.info.run_id) for run in own})


@dataclass(frozen=True)
class RunSummary:
    """What only MLflow knows of an experiment's state_dict."""

    page: str  # path of the run's page, below the MLflow server's address
    seconds: float | None  # time of training; None for a run that was rebuilt
    champion: bool  # whether its model is its dataset's champion
    challenger: bool = False  # whether it is the challenger
    decision: str = ""  # what was said when it became one of them
    verdict: str = ""  # what was last decided about its dataset's champion
    device: str | None = None  # where it was trained
    latency: float | None = None  # milliseconds for one sample
    latency_p95: float | None = None
    throughput: float | None = None  # samples per second
    latency_device: str | None = None  # where these three were measured
    data: str | None = None  # md5 of what its training read
    report: str | None = None  # sha256 of its dataset's latest page, if this run has it
    judged: int = 0  # how many models the test split has measured


def run_summaries(store: Store, state_dicts: dict[tuple[str, str], str]) -> dict[tuple[str, str], RunSummary]:
    """Returns (dataset, experiment) → what MLflow knows of it, for those that have a run.

    Args:
        store: The store.
        state_dicts: (dataset, experiment) → sha256 of its state_dict.
    """
    found = {}
    with told_if_slow(store.uri), open_store(store.uri) as client:
        datasets = {dataset for dataset, _ in state_dicts}
        versions = {
            dataset: [version_with(client, store.name(dataset), alias) for alias in (CHAMPION, CHALLENGER)]
            for dataset in datasets
        }
        tags = {dataset: _tags(client, store.name(dataset)) for dataset in datasets}
        judged: dict[tuple[str, str], int] = {}  # (MLflow's experiment, md5 of the test split) → number of models
        for (dataset, experiment), digest in state_dicts.items():
            run = find_run(client, store.name(dataset), experiment, digest)
            if run is None:
                continue
            of_dataset = [name for other, name in state_dicts if other == dataset]
            champion, challenger = (
                version if version and is_model_of(client, version, experiment, digest, of_dataset) else None
                for version in versions[dataset]
            )
            version = champion or challenger
            test = run.info.experiment_id, run.data.tags.get(TEST_DATA, "")
            if test not in judged:
                judged[test] = _judged(client, *test)
            found[dataset, experiment] = RunSummary(
                f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}",
                run.data.metrics.get("train/seconds"),
                champion is not None,
                challenger is not None,
                version.tags.get(DECISION, "") if version else "",
                tags[dataset].get(DECISION, ""),
                run.data.params.get("device"),
                run.data.metrics.get(LATENCY),
                run.data.metrics.get(LATENCY_P95),
                run.data.metrics.get(THROUGHPUT),
                run.data.tags.get(LATENCY_DEVICE),
                run.data.tags.get(DATA_MD5),
                run.data.tags.get(REPORT) if tags[dataset].get(LAST_REPORT) == run.info.run_id else None,
                judged[test],
            )
    return found


def _tags(client: MlflowClient, dataset: MlflowName) -> dict[str, str]:
    found = client.get_experiment_by_name(dataset)
    return found.tags if found else {}
