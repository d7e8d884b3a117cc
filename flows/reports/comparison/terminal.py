"""A comparison as a compact table for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import Group
from rich.text import Text

from flows.reports.comparison import words
from flows.reports.comparison.columns import differing, setting, title_of
from flows.reports.comparison.records import Entry, Report
from flows.reports.layout import Column, lay_out

ALIKE = "≈ best"
CAPTION = f"± is half of the 95 % interval; {ALIKE}: the difference from the best one may be chance"
WIDE = 110  # columns of a terminal that has room for the settings in the table


def terminal(report: Report, width: int) -> Group:
    """Returns the table, with the sentences that say what decides; in a narrow terminal the settings stand below it."""
    settings = {entry.name: said for entry, said in _settings(report) if said}
    columns = _columns(report, settings) if width >= WIDE else _columns(report)
    layout = lay_out(columns, width)
    layout.view.title, layout.view.caption = Text(report.dataset), CAPTION
    layout.view.title_justify = layout.view.caption_justify = "left"
    below = [f"{name}: {said}" for name, said in settings.items()] if width < WIDE else []
    verdict = f"{words.leader(report)} {words.others(report)}".rstrip()
    since = [words.changed(report.changes)] if report.changes else []
    narrow = layout.remark("trackway compare --out report.html")
    sentences = (*narrow, *below, verdict, words.basis(report), *words.decisions(report), *since, *report.remarks)
    return Group(layout.view, *map(Text, sentences))


def _columns(report: Report, settings: dict[str, str] | None = None) -> list[Column]:
    """Returns the table's columns, with one for the settings if they are given."""
    metric, entries = report.metric, report.entries

    def measured(split: str, rank: int) -> Column:
        cells = tuple(_measured(entry, split, metric) for entry in entries)
        return Column(f"{split}\n{metric}", cells, rank, is_number=True)

    apart = [_difference(entry, metric) for entry in entries]
    found = [
        Column("experiment", tuple(entry.name for entry in entries), folds=True),
        measured(report.part, 0),
        *([measured("test", 1)] if report.part != "test" else []),
        Column("against\nthe best", tuple(difference for difference, _ in apart), rank=2, is_number=True),
        Column("p", tuple(p for _, p in apart), rank=3, is_number=True),
        Column("", tuple(_mark(report, entry) for entry in entries), wraps=True),
    ]
    if settings is not None:
        said = tuple(settings.get(entry.name, "") for entry in entries)
        found.append(Column("settings that differ", said, wraps=True, folds=True))
    return found


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
