"""A comparison as a compact table for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from flows.reports.comparison import words
from flows.reports.comparison.columns import differing, setting, title_of
from flows.reports.comparison.records import Entry, Report

ALIKE = "≈ best"
CAPTION = f"± is half of the 95 % interval; {ALIKE}: the difference from the best one may be chance"
WIDE = 110  # columns of a terminal that has room for the settings in the table


def terminal(report: Report, width: int) -> Group:
    """Returns the table, with the sentences that say what decides; in a narrow terminal the settings stand below it."""
    metric, splits = report.metric, list(dict.fromkeys((report.part, "test")))
    view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=Text(report.dataset), caption=CAPTION)
    view.title_justify = view.caption_justify = "left"
    view.add_column("experiment", no_wrap=True)
    for title in (*(f"{split}\n{metric}" for split in splits), "against\nthe best", "p"):
        view.add_column(title, justify="right", no_wrap=True)
    view.add_column("", no_wrap=True)
    if width >= WIDE:
        view.add_column("settings that differ", overflow="fold")
    settings = {entry.name: said for entry, said in _settings(report) if said}
    for entry in report.entries:
        measured = (_measured(entry, split, metric) for split in splits)
        row = [entry.name, *measured, *_difference(entry, metric), _mark(report, entry)]
        view.add_row(*map(Text, [*row, settings.get(entry.name, "")] if width >= WIDE else row))
    below = [f"{name}: {said}" for name, said in settings.items()] if width < WIDE else []
    verdict = f"{words.leader(report)} {words.others(report)}".rstrip()
    since = [words.changed(report.changes)] if report.changes else []
    sentences = (*below, verdict, words.basis(report), *words.decisions(report), *since, *report.remarks)
    return Group(view, *map(Text, sentences))


def _settings(report: Report) -> Iterator[tuple[Entry, str]]:
    """Yields each experiment with the settings that differ."""
    titles = _short(differing(report))
    for entry in report.entries:
        said = [f"{title}={setting(entry, name)}" for name, title in titles.items() if name in entry.settings]
        yield entry, " ".join(said)


def _short(names: list[str]) -> dict[str, str]:
    """Returns setting → its title: the last word of its name, or all of it if another one ends with the same word."""
    last = {name: title_of(name).rpartition(".")[2] for name in names}
    times = Counter(last.values())
    return {name: word if times[word] == 1 else title_of(name) for name, word in last.items()}


def _measured(entry: Entry, split: str, metric: str) -> str:
    measured = entry.measured[split].get(metric)
    if measured is None:
        return words.DASH
    text = words.number(metric, measured.value)
    if measured.interval is None:
        return text
    half = (measured.interval[1] - measured.interval[0]) / 2
    return f"{text} ±{100 * half:.1f}" if metric == "accuracy" else f"{text} ±{half:.1g}"


def _difference(entry: Entry, metric: str) -> tuple[str, str]:
    if entry.difference is None:
        return words.DASH, words.DASH
    return words.apart(metric, entry.difference.value), words.p_value(entry.difference.p).removeprefix(
        "p "
    ).removeprefix("= ")


def _mark(report: Report, entry: Entry) -> str:
    best = "best" if entry is report.entries[0] else ""
    alike = ALIKE if entry.difference and not entry.difference.is_separable else ""
    return ", ".join(filter(None, (best, alike, entry.role)))
