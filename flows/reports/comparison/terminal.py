"""A comparison as a table for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from flows.reports.comparison import words
from flows.reports.comparison.columns import Column, columns, differing, setting, title_of
from flows.reports.comparison.records import Entry, Report

LEFT_OUT = ("device", "MB")  # columns that only the pages have


def terminal(report: Report) -> Group:
    """Returns the table, with the sentences that say what decides."""
    settings = differing(report)
    left_out = (*LEFT_OUT, *map(title_of, settings))
    shown = [each for each in columns(report) if each.title not in left_out]
    view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=Text(report.dataset), title_justify="left")
    view.add_column("experiment", overflow="fold")
    for each in shown:
        view.add_column(each.title.replace(" ", "\n"), justify="right" if each.is_number else "left")
    view.add_column("settings that differ", overflow="fold")
    view.add_column("", no_wrap=True)
    for number, entry in enumerate(report.entries):
        values = [Text(_text(column, number)) for column in shown]
        view.add_row(Text(entry.name), *values, Text(_settings(entry, settings)), Text(_role(report, entry)))
    verdict = f"{words.leader(report)} {words.others(report)}".rstrip()
    sentences = (verdict, words.basis(report), *words.decisions(report), *report.remarks)
    return Group(view, *(Text(sentence) for sentence in sentences))


def _text(column: Column, row: int) -> str:
    cell = column.cells[row]
    return f"{cell.text} ({cell.note})" if column.title == "against the best" and cell.note else cell.text


def _settings(entry: Entry, names: list[str]) -> str:
    return " ".join(f"{title_of(name)}={setting(entry, name)}" for name in names)


def _role(report: Report, entry: Entry) -> str:
    best = "best" if entry is report.entries[0] else ""
    alike = "not separable" if entry.difference and not entry.difference.is_separable else ""
    return ", ".join(filter(None, (best, alike, entry.role)))
