"""Collects what a comparison shows: from the rows of the table of results, and from DVC's outputs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from flows.reports.comparison.answers import answers_of, one_seed
from flows.reports.comparison.differences import differences
from flows.reports.comparison.mistakes import confident_mistakes
from flows.reports.comparison.records import (
    Changes,
    Curve,
    Details,
    Difference,
    Entry,
    Fits,
    Measured,
    Pictures,
    Points,
    Report,
    Role,
    Speed,
)
from learn.comparison.ranking import is_number, metric_of
from learn.evaluation.metrics import METRICS
from learn.evaluation.predictions import Predictions, read
from learn.training.history import read_history
from tasks.params import Params
from tasks.params.flatten import flatten
from tasks.workspace.paths import history_file, models_folder, report_file, scored_file, state_dict_files

MOST_COMPARED = 20  # experiments that are compared with the best one
MOST_DRAWN = 10  # experiments in a figure
MOST_ANSWERING = 6  # experiments whose answers are shown

Row = dict[str, Any]


def gather(
    params: Params,
    dataset: str,
    names: Collection[str],
    rows: list[Row],
    *,
    details: bool = True,
    changes: Changes | None = None,
) -> Report:
    """Returns what a comparison shows of a dataset's experiments.

    Args:
        params: The parameters.
        dataset: Name of the dataset.
        names: Names of its experiments to show.
        rows: The table of results (flows/reports/results.py), best first.
        details: Whether to collect what only figures show.
        changes: What changed since the report before; None if nothing is known of earlier reports.
    """
    of = params.dataset(dataset)
    part, metric = of.split.held_out, of.champion.metric
    shown = [row for row in rows if row["dataset"] == dataset and row["experiment"] in names]
    apart = _differences(params, dataset, shown, intervals=details)
    reports = {row["experiment"]: _report(dataset, row["experiment"]) for row in shown[: MOST_DRAWN * details]}
    entries = tuple(_entry(params, row, apart, reports.get(row["experiment"])) for row in shown)
    classes = tuple(next(iter(reports.values())).get("per_class", ())) if reports else of.source.classes
    answers = _answers(dataset, shown[:MOST_ANSWERING], reports) if reports else None
    mistakes = confident_mistakes(shown, reports) if classes and reports else {}
    missing = chain(_judged(part, shown), _not_evaluated(dataset, names, shown), _not_drawn(dataset, entries))
    samples = _samples(params, dataset, shown)
    level, remarks = of.champion.level, tuple(missing)
    return Report(dataset, part, metric, level, samples, classes, entries, answers, remarks, changes, mistakes)


def _answers(dataset: str, rows: list[Row], reports: dict[str, Row]) -> Points | Fits | Pictures | None:
    """Returns what the experiments answer for the same test samples, those of the first one."""
    found = {row["experiment"]: read(scored_file(dataset, row["experiment"]), "test") for row in rows}
    if (first := found[rows[0]["experiment"]]) is None:
        return None
    same = {
        row["experiment"]: one_seed(each.predictions, row, reports[row["experiment"]])
        for row in rows
        if (each := found[row["experiment"]]) and each.data == first.data
    }
    return answers_of(dataset, first, same)


def _samples(params: Params, dataset: str, rows: list[Row]) -> dict[str, int]:
    """Returns split → number of samples, as the first experiment was measured: broken photos may be left out."""
    sizes = params.dataset(dataset).sizes
    found = {split: read(scored_file(dataset, row["experiment"]), split) for row in rows[:1] for split in sizes}
    return sizes | {split: len(each.targets) for split, each in found.items() if each}


def _differences(params: Params, dataset: str, rows: list[Row], *, intervals: bool) -> dict[str, Difference]:
    """Returns experiment → its difference from the first row's, for those that were measured on the same samples."""
    of = params.dataset(dataset)
    part, metric = of.split.held_out, of.champion.metric
    if METRICS[metric].score is None:
        return {}
    predicted: dict[str, Predictions] = {}
    for row in rows[: MOST_COMPARED + 1]:
        found = read(scored_file(dataset, row["experiment"]), part)
        if found and is_number(metric_of(row, part, metric)):
            predicted[row["experiment"]] = found
    best = predicted.pop(rows[0]["experiment"], None) if rows else None
    if best is None:
        return {}
    return differences(
        metric,
        best,
        predicted,
        stratified=of.split.is_stratified(part),
        level=of.champion.level,
        intervals=intervals,
    )


def _report(dataset: str, experiment: str) -> Row:
    found: Row = json.loads(report_file(dataset, experiment).read_bytes())
    return found


def _entry(params: Params, row: Row, apart: dict[str, Difference], report: Row | None) -> Entry:
    """Returns an experiment's record; `report` is the content of its report file if the experiment is drawn."""
    name = row["experiment"]
    part = params.dataset(row["dataset"]).split.held_out
    settings = params.experiment(name).model_dump(exclude={"dataset"})
    role: Role = "champion" if row.get("champion") else "challenger" if row.get("challenger") else ""
    return Entry(
        name,
        {split: _measured(row, split) for split in dict.fromkeys((part, "test"))},
        flatten(settings),
        len(row.get("seeds", ())) or 1,
        row["parameters"],
        row["epochs"],
        row["diagnosis"],
        _megabytes(name),
        row.get("seconds"),
        row.get("device"),
        _speed(row),
        role,
        row.get("decision", "") if role else "",
        apart.get(name),
        _details(name, report) if report else None,
    )


def _speed(row: Row) -> Speed | None:
    if row.get("latency") is None:
        return None
    return Speed(row["latency"], row.get("latency_p95"), row.get("throughput"), row.get("latency_device") or "")


def _measured(row: Row, split: str) -> dict[str, Measured]:
    intervals, sd = row.get("intervals", {}).get(split, {}), row.get("sd", {})
    found = {}
    for metric in METRICS:
        value = metric_of(row, split, metric)
        if is_number(value):
            interval = tuple(intervals[metric]) if metric in intervals else None
            found[metric] = Measured(value, interval, metric_of(sd, split, metric))
    return found


def _megabytes(experiment: str) -> float | None:
    """Returns the size of an experiment's state_dict, of one if there is one for each seed."""
    file = state_dict_files(models_folder(experiment))[0]
    return file.stat().st_size / 1e6 if file.is_file() else None


def _details(experiment: str, report: Row) -> Details:
    classes = report.get("per_class", {})
    return Details(
        _curves(experiment),
        {name: of["recall"] for name, of in classes.items()},
        {name: of["support"] for name, of in classes.items()},
        tuple(tuple(row) for row in report.get("confusion_matrix", ())),
    )


def _curves(experiment: str) -> dict[str, Curve]:
    """Returns the curves of an experiment; empty if its history is not there.

    The history has the means over the seeds. The band comes from the history of each seed, as far as all have it.
    """
    if not history_file(experiment).is_file():
        return {}
    mean = _columns(history_file(experiment))
    each = [_columns(file) for file in sorted(models_folder(experiment).glob("seed-*/history.csv"))]
    epochs = tuple(range(1, len(next(iter(mean.values()), ())) + 1))
    curves = {}
    for name, values in mean.items():
        seeds = [columns[name] for columns in each if len(columns.get(name, ())) >= len(values)]
        low, high = (
            tuple(pick(at) for at in zip(*(of[: len(values)] for of in seeds), strict=True)) if len(seeds) > 1 else ()
            for pick in (min, max)
        )
        curves[name] = Curve(epochs, values, low, high)
    return curves


def _columns(file: Path) -> dict[str, tuple[float, ...]]:
    rows = read_history(file)
    return {name: tuple(row[name] for row in rows) for name in rows[0]} if rows else {}


def _judged(part: str, shown: list[Row]) -> Iterator[str]:
    """Yields how many models the test part has measured, if MLflow knows of several."""
    if (judged := max((row.get("judged", 0) for row in shown), default=0)) > 1:
        lucky = "; the best result may be luck" if part == "test" else ""
        yield f"the test part has measured {judged} models{lucky}"


def _not_evaluated(dataset: str, names: Collection[str], shown: list[Row]) -> Iterator[str]:
    for name in names:
        if not any(row["experiment"] == name for row in shown):
            yield f"{name} of {dataset} is not evaluated yet; next: dvc repro evaluate@{name}"


def _not_drawn(dataset: str, entries: tuple[Entry, ...]) -> Iterator[str]:
    for entry in entries:
        if entry.details and not entry.details.curves:
            yield f"the curves of {entry.name} are left out: {history_file(entry.name)} is not there; next: dvc pull"
