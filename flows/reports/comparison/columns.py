"""The columns of the tables of experiments, the same for HTML, Markdown and the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flows.reports.comparison import words
from flows.reports.comparison.records import Entry, Report, Speed
from learn.evaluation.metrics import METRICS


@dataclass(frozen=True)
class Cell:
    """One value of a table."""

    text: str
    order: float | str | None = None  # what the column is sorted by; None comes last
    note: str = ""  # what is said in smaller letters


@dataclass(frozen=True)
class Column:
    """One column of a table, with a cell for each experiment."""

    title: str
    cells: tuple[Cell, ...]
    is_number: bool = True
    sorted: str = ""  # ascending or descending, if the table is sorted by it at first


EMPTY = Cell(words.DASH)


def columns(report: Report) -> list[Column]:
    """Returns the columns behind the experiment's name: what decides, then what explains it."""
    part, metric = report.part, report.metric
    order = "descending" if METRICS[metric].better == "higher" else "ascending"
    found = [_metric(report, part, metric, order)]
    if part != "test":
        found.append(_metric(report, "test", metric))
    if metric != "loss":
        found.append(_metric(report, part, "loss"))
    found += [
        _column(report, "against the best", lambda each: _difference(each, metric)),
        *(_setting(report, name) for name in differing(report)),
        _column(report, "parameters", lambda each: Cell(f"{each.parameters:,}", each.parameters)),
        *_epochs(report),
        _column(report, "MB", lambda each: _number(each.megabytes, "{:.3g}")),
        _column(report, "latency ms", lambda each: _number(each.speed.median if each.speed else None, "{:.3g}")),
        _column(report, "train seconds", lambda each: _number(each.seconds, "{:.1f}")),
        _column(report, "device", lambda each: _text(each.device), is_number=False),
        _column(report, "diagnosis", lambda each: _text(each.diagnosis), is_number=False),
    ]
    return found


def costs(report: Report) -> list[Column]:
    """Returns the columns of what models are worth and what they cost; none if no latency is known."""
    if not any(entry.speed for entry in report.entries):
        return []
    speeds = {entry.name: entry.speed for entry in report.entries}

    def speed(of: Callable[[Speed], float | None], form: str) -> Callable[[Entry], Cell]:
        return lambda each: _number(of(found) if (found := speeds[each.name]) else None, form)

    return [
        _metric(report, report.part, report.metric),
        _column(report, "parameters", lambda each: Cell(f"{each.parameters:,}", each.parameters)),
        _column(report, "MB", lambda each: _number(each.megabytes, "{:.3g}")),
        _column(report, "latency ms", speed(lambda found: found.median, "{:.3g}")),
        _column(report, "p95 ms", speed(lambda found: found.p95, "{:.3g}")),
        _column(report, "samples a second", speed(lambda found: found.throughput, "{:,.0f}")),
        _column(report, "measured on", lambda each: _text(each.speed.device if each.speed else None), is_number=False),
    ]


def metrics(report: Report) -> list[Column]:
    """Returns a column for every metric on every split."""
    names = [(split, name) for split in dict.fromkeys((report.part, "test")) for name in METRICS]
    return [
        _metric(report, split, name)
        for split, name in names
        if any(name in entry.measured[split] for entry in report.entries)
    ]


def differing(report: Report) -> list[str]:
    """Returns the names of the settings that are not the same for all experiments, in the order of params.yaml."""
    names = dict.fromkeys(name for entry in report.entries for name in entry.settings)
    sections = list(dict.fromkeys(name.partition(".")[0] for name in names))
    found = [name for name in names if len({setting(entry, name) for entry in report.entries}) > 1]
    return sorted(found, key=lambda name: sections.index(name.partition(".")[0]))


def title_of(setting: str) -> str:
    """Returns a setting's name as a title: `model` for `model.name`."""
    return setting.removesuffix(".name")


def setting(entry: Entry, name: str) -> str:
    """Returns a setting as text; a dash if the experiment does not have it."""
    value = entry.settings.get(name)
    return words.DASH if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _column(report: Report, title: str, cell: Callable[[Entry], Cell], *, is_number: bool = True) -> Column:
    return Column(title, tuple(cell(entry) for entry in report.entries), is_number)


def _metric(report: Report, split: str, metric: str, order: str = "") -> Column:
    def cell(entry: Entry) -> Cell:
        measured = entry.measured[split].get(metric)
        if measured is None:
            return EMPTY
        text = words.number(metric, measured.value)
        return Cell(text, measured.value, words.spread(metric, measured, entry.seeds))

    return Column(f"{split} {metric}", tuple(cell(entry) for entry in report.entries), sorted=order)


def _setting(report: Report, name: str) -> Column:
    def order(value: Any) -> float | str | None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number or value is None else str(value)

    cells = tuple(Cell(setting(entry, name), order(entry.settings.get(name))) for entry in report.entries)
    return Column(title_of(name), cells, not any(isinstance(cell.order, str) for cell in cells))


def _epochs(report: Report) -> list[Column]:
    """Returns the number of epochs, unless the setting that is shown says the same."""
    as_set = all(entry.epochs == entry.settings.get("epochs") for entry in report.entries)
    if as_set and "epochs" in differing(report):
        return []
    title = "epochs" if as_set else "epochs trained"
    return [_column(report, title, lambda each: Cell(f"{each.epochs:,}", each.epochs))]


def _difference(entry: Entry, metric: str) -> Cell:
    if entry.difference is None:
        return EMPTY
    return Cell(words.apart(metric, entry.difference.value), entry.difference.value, words.p_value(entry.difference.p))


def _number(value: float | None, form: str) -> Cell:
    return EMPTY if value is None else Cell(form.format(value), value)


def _text(value: str | None) -> Cell:
    return Cell(value, value) if value else EMPTY
