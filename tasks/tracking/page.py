"""What MLflow's own page shows of experiments and runs: names, descriptions, and a view with what decides in front."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tasks.tracking.delivery import open_store
from tasks.tracking.names import Store
from tasks.tracking.store import patiently
from tasks.tracking.tags import DECISION, KIND, NOTE, OUR_NOTE, TRAININGS, VIEW

VIEW_KEY = "trackway"  # the view is at #/experiments/ID/runs?viewStateShareKey=trackway


@patiently
def describe_dataset(
    store: Store | None, dataset: str, split: str, metric: str, higher_is_better: bool, text: str, decision: str
) -> None:
    """Describes a dataset's experiment on MLflow's page, and saves a view that is sorted by what decides.

    Args:
        store: The store; None does nothing.
        dataset: Name of the dataset.
        split: The split that decides.
        metric: The metric that decides.
        higher_is_better: Whether larger values of that metric are better.
        text: The description, in Markdown.
        decision: What was decided about the champion.
    """
    if not store:
        return
    with open_store(store.uri) as client:
        if found := client.get_experiment_by_name(store.name(dataset)):
            view = json.dumps(_view(split, metric, higher_is_better))
            wanted = {KIND: TRAININGS, VIEW + VIEW_KEY: view, DECISION: decision}
            if found.tags.get(NOTE, "") in ("", found.tags.get(OUR_NOTE)):  # otherwise a user wrote it
                wanted |= {OUR_NOTE: text, NOTE: text}
            for key, value in wanted.items():
                if found.tags.get(key) != value:
                    client.set_experiment_tag(found.experiment_id, key, value)


def _view(split: str, metric: str, higher_is_better: bool) -> dict[str, Any]:
    """Returns the state of a shared view, as MLflow's page writes it."""
    decides = _column(split, metric)
    others = [_column(part, name) for name in (metric, "loss") for part in (split, "test")]
    metrics = list(dict.fromkeys([decides, *others]))
    return {
        "searchFilter": "",
        "orderByKey": decides,
        "orderByAsc": not higher_is_better,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*metrics, "attributes.`Models`"],
        "columnOrder": metrics,
    }


def _column(split: str, metric: str) -> str:
    return f"metrics.`{split}/{metric}`"


def evaluation_note(report: Mapping[str, Any], metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Returns what a run's description says of its evaluation, in Markdown.

    Args:
        report: The content of metrics/D/E.report.json.
        metrics: Split → metric → value; the split that decides is the first.
    """
    rows = []
    for split, values in metrics.items():
        for name, value in values.items():
            low, high = report["intervals"].get(split, {}).get(name, (None, None))
            between = "" if low is None else f"{low:.4f} to {high:.4f}"
            rows.append(f"| {split} {name} | {value:.4f} | {between} |")
    table = "\n".join(["| metric | value | 95 % interval |", "| --- | --- | --- |", *rows])
    decides = next(iter(metrics))
    return f"The {decides} split decides. {report['diagnosis']['text']}\n\n{table}"
