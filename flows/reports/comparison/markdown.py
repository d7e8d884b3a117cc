"""A comparison as Markdown, for a pull request."""

from __future__ import annotations

import re

from flows.reports.comparison import words
from flows.reports.comparison.columns import Cell, Column, columns, costs, metrics
from flows.reports.comparison.records import Entry, Report
from flows.reports.comparison.tradeoff import efficient, priced


def markdown(reports: list[Report]) -> str:
    """Returns the reports, a section each: what decides, the tables, and the differences from the best."""
    return "\n".join(line for report in reports for line in _section(report))


def _section(report: Report) -> list[str]:
    verdict = f"{words.leader(report)} {words.others(report)}"
    sentences = [verdict, words.basis(report), *words.decisions(report)]
    lines = [f"# {escaped(report.dataset)}", "", *(f"{escaped(each)}\n" for each in sentences)]
    if report.entries:
        lines += [*_table(report, columns(report)), "", *_differences(report)]
        if report.drawn and report.classes:
            lines += [*_recall(report), ""]
        if cost := costs(report):
            lines += ["## Worth and cost", "", *_efficient(report), *_table(report, cost), ""]
        lines += ["<details><summary>All metrics</summary>", "", *_table(report, metrics(report)), "", "</details>", ""]
    return [*lines, *_changes(report), *(f"- {escaped(each)}" for each in report.remarks), ""]


def _efficient(report: Report) -> list[str]:
    found = efficient(report) if len(priced(report)) > 1 else []
    return [escaped(words.cost(report, found)), ""] if found else []


def _changes(report: Report) -> list[str]:
    if report.changes is None:
        return []
    lists = words.changed_lists(report.changes)
    listed = [f"- {title}: {escaped(each)}" for title, items in lists for each in items]
    return ["## What changed", "", escaped(words.changed(report.changes)), "", *listed, ""]


def _table(report: Report, shown: list[Column]) -> list[str]:
    head = ["experiment", *(column.title for column in shown)]
    rows = [
        [_name(report, entry), *(_cell(column.cells[number]) for column in shown)]
        for number, entry in enumerate(report.entries)
    ]
    aligned = ["---", *("---:" if column.is_number else "---" for column in shown)]
    return _lines([[escaped(title) for title in head], aligned, *rows])


def _name(report: Report, entry: Entry) -> str:
    name = f"**{escaped(entry.name)}**" if entry is report.entries[0] else escaped(entry.name)
    marks = [mark for mark in (_mark(report, entry), entry.role) if mark]
    return f"{name} ({', '.join(marks)})" if marks else name


def _mark(report: Report, entry: Entry) -> str:
    if entry is report.entries[0]:
        return "best"
    return "not separable" if entry.difference and not entry.difference.is_separable else ""


def _cell(cell: Cell) -> str:
    return escaped(f"{cell.text} ({cell.note})" if cell.note else cell.text)


def _differences(report: Report) -> list[str]:
    compared = [(entry, entry.difference) for entry in report.entries if entry.difference]
    if not compared:
        return []
    rows = [
        [
            escaped(entry.name),
            escaped(words.apart(report.metric, each.value)),
            escaped(words.apart_between(report.metric, each.interval)) if each.interval else words.DASH,
            words.p_value(each.p).replace("<", "&lt;"),
        ]
        for entry, each in compared
    ]
    title = f"## Differences from {escaped(report.entries[0].name)}"
    head = [["experiment", escaped(report.metric), "95 % interval", "p"], ["---", "---:", "---:", "---:"]]
    return [title, "", escaped(words.compared_how(report)), "", *_lines([*head, *rows]), ""]


def _recall(report: Report) -> list[str]:
    head = ["class", *(entry.name for entry in report.drawn)]
    rows = [[escaped(name), *(_share(entry, name) for entry in report.drawn)] for name in report.classes]
    aligned = ["---", *("---:" for _ in report.drawn)]
    return ["## Recall of each class on the test part", "", *_lines([[escaped(each) for each in head], aligned, *rows])]


def _share(entry: Entry, name: str) -> str:
    recall = entry.details.recall.get(name) if entry.details else None
    return words.DASH if recall is None else f"{recall:.1%}"


def _lines(rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in rows]


def escaped(text: str) -> str:
    """Returns text in which nothing is Markdown, HTML, or the end of a table's cell."""
    return re.sub(r"([\\`*_\[\]<>|#!~&@$])", r"\\\1", " ".join(text.split()))
