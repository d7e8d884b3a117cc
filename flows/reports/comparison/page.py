"""A comparison as one HTML page that needs nothing else: no network, no other file.

Its script and its styles stand in the page. A content security policy allows no other script and no request, so that
no name in params.yaml, whatever it is, can do anything. The same report gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from flows.reports.comparison import curves, figures, words
from flows.reports.comparison.columns import columns, costs, differing, metrics
from flows.reports.comparison.records import Details, Entry, Fits, Mistake, Pictures, Points, Report
from flows.reports.comparison.tradeoff import efficient, tradeoff

HERE = Path(__file__).parent
MOST_ROWS = 30  # classes in the table of recalls
MOST_RECALLS = 6  # experiments in the table of recalls


@dataclass(frozen=True)
class Bar:
    """A row of the forest plot; places are percentages of its width."""

    entry: Entry
    number: int | None  # of the experiment's colour
    low: float
    middle: float
    high: float
    texts: tuple[str, str, str]  # the difference, its interval, p


@dataclass(frozen=True)
class Forest:
    """The differences from the best experiment, on one axis."""

    bars: tuple[Bar, ...]
    zero: float  # place of no difference, in percent


def page(reports: list[Report]) -> bytes:
    """Returns the page, with a section for each dataset."""
    script, style = ((HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sections = [_section(report) for report in reports]
    text = _template().render(sections=sections, script=script, style=style, digest=digest, words=words)
    return text.encode()


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _section(report: Report) -> dict[str, Any]:
    """Returns what the template shows of a dataset."""
    numbers = {entry.name: number for number, entry in enumerate(report.drawn)}
    return {
        "report": report,
        "numbers": numbers,
        "columns": columns(report),
        "metrics": metrics(report),
        "costs": costs(report),
        "tradeoff": tradeoff(report, numbers),
        "efficient": efficient(report),
        "same": not differing(report) and len(report.entries) > 1,
        "charts": curves.charts(report),
        "bands": any(curve.low for e in report.drawn if e.details for curve in e.details.curves.values()),
        "forest": forest(report, numbers),
        "matrices": figures.matrices(report),
        "recalls": recalls(report),
        "answers": _answers(report, numbers),
        "mistakes": [(name, [_mistake(report, each) for each in found]) for name, found in report.mistakes.items()],
    }


def forest(report: Report, numbers: dict[str, int]) -> Forest | None:
    """Returns the differences from the best experiment with their intervals; None if there are none."""
    compared = [(e, e.difference, e.difference.interval) for e in report.entries if e.difference]
    ends = [end for _, each, interval in compared for end in (each.value, *(interval or ()))]
    if not ends:
        return None
    low, high = min(0.0, *ends), max(0.0, *ends)
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    bars = []
    for entry, each, interval in compared:
        first, last = interval or (each.value, each.value)
        text = words.apart_between(report.metric, interval) if interval else words.DASH
        texts = (words.apart(report.metric, each.value), text, words.p_value(each.p))
        bars.append(Bar(entry, numbers.get(entry.name), place(first), place(each.value), place(last), texts))
    return Forest(tuple(bars), place(0))


@dataclass(frozen=True)
class Recall:
    """A class's recall: the best experiment's, and how the others' differ from it in points."""

    name: str
    support: int
    best: float
    others: tuple[float | None, ...]


def recalls(report: Report) -> tuple[list[Entry], list[Recall]]:
    """Returns experiments and, for each class, their recalls; the classes on which they differ most come first."""
    shown = [(e, e.details) for e in report.drawn if e.details and e.details.recall][:MOST_RECALLS]
    if not shown:
        return [], []
    (_, best), *others = shown
    rows = [
        Recall(name, best.support[name], recall, tuple(_points(of, name, recall) for _, of in others))
        for name, recall in best.recall.items()
    ]
    rows.sort(key=lambda row: -max((abs(each) for each in row.others if each is not None), default=1 - row.best))
    return [entry for entry, _ in shown], rows[:MOST_ROWS]


def _points(details: Details, name: str, best: float) -> float | None:
    return 100 * (details.recall[name] - best) if name in details.recall else None


def _answers(report: Report, numbers: dict[str, int]) -> dict[str, Any]:
    """Returns the answers of experiments: figures for points and fits, cards for pictures."""
    found = report.answers
    names = [name for name in numbers if found and name in found.answers]
    if isinstance(found, Points):
        return {"kind": "points", "figures": [(name, figures.points(found, name)) for name in names]}
    if isinstance(found, Fits):
        return {"kind": "fits", "figures": [(name, figures.fits(found, name, numbers[name])) for name in names]}
    if isinstance(found, Pictures):
        return {"kind": "pictures", "cards": [_card(report, found, names, at) for at in range(len(found.images))]}
    return {"kind": ""}


def _card(report: Report, found: Pictures, names: list[str], at: int) -> dict[str, Any]:
    """Returns a test picture with its class and each model's answer."""
    answers = [(name, int(found.answers[name][at])) for name in names]
    target = int(found.targets[at])
    return {
        "number": found.numbers[at],
        "image": _address(found.images[at]),
        "truth": report.classes[target],
        "answers": [(name, report.classes[answer], answer == target) for name, answer in answers],
    }


def _mistake(report: Report, mistake: Mistake) -> dict[str, Any]:
    """Returns a test sample with its class, the model's answer, and how probable the model calls it."""
    return {
        "number": mistake.number,
        "image": _address(mistake.picture) if mistake.picture else "",
        "numbers": mistake.values,
        "truth": report.classes[mistake.target],
        "answer": report.classes[mistake.answer],
        "probability": f"{mistake.probability:.1%}",
    }


def _address(picture: bytes) -> str:
    """Returns a PNG as an address that holds the picture itself."""
    return "data:image/png;base64," + base64.b64encode(picture).decode()
