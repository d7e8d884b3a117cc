"""Writes a sweep to MLflow: a parent run with its figures, and a child run for each trial.

A sweep may be written again at any time, with more trials; what MLflow has already is left as it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.tracking.delivery import open_store
from tasks.tracking.lineage import git_context
from tasks.tracking.liveness import now_ms, this_process
from tasks.tracking.logged_run import MAX_METRICS_PER_BATCH
from tasks.tracking.names import Store
from tasks.tracking.runs import LONGEST_NAME, experiment_id_of
from tasks.tracking.store import all_pages, patiently, store_lock
from tasks.tracking.tags import HEARTBEAT, KEY, NOTE, PARENT, PROCESS, SOURCE_NAME, SWEEP, TRIAL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Run

SOURCE = "trackway sweep"  # what MLflow's page names as the source of the runs
MOST_PARAMS = 100  # parameters that MLflow takes in one request


@dataclass(frozen=True)
class SweepRecord:
    """What the parent run says."""

    key: str  # unique in the store
    dataset: str
    experiment: str
    space: dict[str, str]  # key → space, as it was written
    note: str  # the run's description, in Markdown
    metrics: dict[str, float]  # of the best trial, by their full names, and how many trials there are
    started: int  # milliseconds since 1970


@dataclass(frozen=True)
class TrialRecord:
    """What the child run of a trial says."""

    number: int
    values: dict[str, str]  # key that the sweep changes → value as text
    ended: str  # complete, pruned, diverged or failed
    why: str  # the error's message; "" without an error
    params: dict[str, Any]  # all settings, flattened
    metrics: dict[str, float]  # by their full names, such as `validation/accuracy`
    epochs: list[dict[str, float]]  # each epoch's metrics, with its number as `epoch`
    tags: dict[str, str]
    start: int  # milliseconds since 1970
    end: int


# How a trial ended → the status of its run.
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "diverged": "FAILED", "failed": "FAILED"}


@patiently
def write_sweep(
    store: Store, sweep: SweepRecord, trials: list[TrialRecord], status: str, figures: dict[str, Figure] | None = None
) -> None:
    """Writes a sweep with its trials. Idempotent.

    Args:
        store: The store.
        sweep: The parent run.
        trials: Trials that have ended; those that MLflow has already are left out.
        status: RUNNING, FINISHED or KILLED.
        figures: Name → figure, as artifacts of the parent run.
    """
    with open_store(store.uri) as client:
        parent = _parent(client, store, sweep)
        experiment_id, parent_id = parent.info.experiment_id, parent.info.run_id
        there = _children(client, experiment_id, sweep.key)
        for trial in trials:
            if (key := f"{sweep.key} {trial.number}") not in there:
                _write_trial(client, experiment_id, parent_id, sweep, trial, key)
        for key, value in sweep.metrics.items():
            if parent.data.metrics.get(key) != value:
                client.log_metric(parent_id, key, value)
        for tag, text in {NOTE: sweep.note, PROCESS: this_process(), HEARTBEAT: str(now_ms())}.items():
            client.set_tag(parent_id, tag, text)
        for name, figure in (figures or {}).items():
            client.log_figure(parent_id, figure, f"figures/{name}.png")
        if status == "RUNNING":
            client.update_run(parent_id, status)
        else:
            client.set_terminated(parent_id, status)


def _parent(client: MlflowClient, store: Store, sweep: SweepRecord) -> Run:
    """Returns the parent run, and creates it if there is none."""
    from mlflow.entities import Param

    with store_lock(store.uri):
        experiment_id = experiment_id_of(client, store.uri, store.name(sweep.dataset))
        if found := client.search_runs([experiment_id], f"tags.`{KEY}` = '{sweep.key}'", max_results=1):
            return found[0]
        tags = git_context() | {
            KEY: sweep.key,
            SWEEP: sweep.key,
            NOTE: sweep.note,
            SOURCE_NAME: SOURCE,
        }
        run = client.create_run(experiment_id, sweep.started, tags, f"{sweep.experiment} sweep")
    client.log_batch(run.info.run_id, params=[Param(key, text) for key, text in sweep.space.items()])
    return run


def _children(client: MlflowClient, experiment_id: str, sweep: str) -> set[str]:
    """Returns the keys of the trials that MLflow has; deletes the runs that a kill left unfinished."""
    there = set()
    where = {"experiment_ids": [experiment_id], "filter_string": f"tags.`{SWEEP}` = '{sweep}'"}
    for run in all_pages(client.search_runs, **where):
        if TRIAL in run.data.tags:
            there.add(run.data.tags[KEY])
        elif run.data.tags[KEY] != sweep:
            client.delete_run(run.info.run_id)
    return there


def _write_trial(
    client: MlflowClient, experiment_id: str, parent_id: str, sweep: SweepRecord, trial: TrialRecord, key: str
) -> None:
    from mlflow.entities import Metric, Param

    changed = " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in trial.values.items())
    name = f"{sweep.experiment} {changed}"[:LONGEST_NAME]
    tags = {PARENT: parent_id, KEY: key, SWEEP: sweep.key, PROCESS: this_process(), SOURCE_NAME: SOURCE}
    if trial.why:
        tags[NOTE] = f"The trial {trial.ended}: {trial.why}"
    run_id = client.create_run(experiment_id, trial.start, tags | trial.tags, name).info.run_id
    params = [Param(key, text if isinstance(text, str) else json.dumps(text)) for key, text in trial.params.items()]
    for start in range(0, len(params), MOST_PARAMS):
        client.log_batch(run_id, params=params[start : start + MOST_PARAMS])
    metrics = [Metric(name, value, trial.end, step) for name, value, step in _points(trial)]
    for start in range(0, len(metrics), MAX_METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS_PER_BATCH])
    client.set_terminated(run_id, STATUS[trial.ended], trial.end)
    client.set_tag(run_id, TRIAL, trial.ended)  # at the end, for it says that the run is whole


def _points(trial: TrialRecord) -> Iterator[tuple[str, float, int]]:
    """Yields the name, value and epoch of each point of the curves, then of the metrics that are no curve's last."""
    last: dict[str, float] = {}
    for last in trial.epochs:
        yield from ((name, value, int(last["epoch"])) for name, value in last.items() if name != "epoch")
    for name, value in trial.metrics.items():
        if last.get(name) != value:
            yield name, value, int(last.get("epoch", 0))
