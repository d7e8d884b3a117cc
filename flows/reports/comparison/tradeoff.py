"""Draws what models are worth and what they cost: the metric that decides over the latency; the area is the size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from flows.reports.comparison import words
from flows.reports.comparison.records import Entry, Measured, Report
from flows.reports.comparison.svg import element, linear_ticks, logarithmic_ticks
from learn.evaluation.metrics import METRICS

WIDTH, HEIGHT = 480, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 24, 16, 40  # margins
LARGEST, SMALLEST = 20.0, 3.5  # radius of the largest model, and the least radius
MOST_NAMED = 12  # models whose names are written into the figure: those that no other beats in both


@dataclass(frozen=True)
class Priced:
    """A model whose metric and latency are known."""

    entry: Entry
    measured: Measured  # the metric that decides
    latency: float  # milliseconds for one sample


def priced(report: Report) -> list[Priced]:
    """Returns the models that can be drawn; all were measured on the device of the first of them."""
    found: list[Priced] = []
    for entry in report.entries:
        measured = entry.measured[report.part].get(report.metric)
        if measured and entry.speed and (not found or entry.speed.device == _device(found)):
            found.append(Priced(entry, measured, entry.speed.median))
    return found


def _device(found: list[Priced]) -> str:
    return found[0].entry.speed.device if found[0].entry.speed else ""


def efficient(report: Report) -> list[Entry]:
    """Returns the models than which no other is both better and at least as fast, or as good and faster; fastest first.

    They are the Pareto front of the metric that decides and the latency.
    """
    metric, front = METRICS[report.metric], list[Priced]()
    sign = -1 if metric.better == "higher" else 1
    for each in sorted(priced(report), key=lambda each: (each.latency, sign * each.measured.value)):
        if not front or metric.beats(each.measured.value, front[-1].measured.value):
            front.append(each)
    return [each.entry for each in front]


def tradeoff(report: Report, numbers: dict[str, int]) -> Markup | None:
    """Draws the models; None if fewer than two can be drawn.

    Args:
        report: The report.
        numbers: Experiment → number of its colour, for those that have one.
    """
    found = priced(report)
    if len(found) < 2:
        return None
    ends = [end for each in found for end in (each.measured.value, *(each.measured.interval or ()))]
    margin = 0.05 * (max(ends) - min(ends)) or 0.5
    low, high = min(ends) - margin, max(ends) + margin
    fast, slow = min(each.latency for each in found) / 1.3, max(each.latency for each in found) * 1.3

    def across(latency: float) -> float:
        return LEFT + math.log(latency / fast) / math.log(slow / fast) * (WIDTH - LEFT - RIGHT)

    def down(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    named = {entry.name for entry in efficient(report)[:MOST_NAMED]}
    marks = [
        _mark(each, across(each.latency), down, _radius(each, found), numbers, each.entry.name in named)
        for each in sorted(found, key=lambda each: -(each.entry.megabytes or 0))
    ]
    xs = [(across(tick), f"{tick:.3g}") for tick in logarithmic_ticks(fast, slow)]
    ys = [(down(tick), words.number(report.metric, tick)) for tick in linear_ticks(low, high)]
    label = f"{report.part} {report.metric} over latency. {words.cost(report, efficient(report))}"
    return element("svg", *_axes(xs, ys), *marks, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)


def _radius(each: Priced, found: list[Priced]) -> float:
    largest = max(other.entry.megabytes or 0 for other in found) or 1
    return max(SMALLEST, LARGEST * math.sqrt((each.entry.megabytes or 0) / largest))


def _mark(
    each: Priced, x: float, down: Callable[[float], float], radius: float, numbers: dict[str, int], is_named: bool
) -> Markup:
    """Draws a model: a circle, the interval of its metric, and its name if it is to be written."""
    name, speed = each.entry.name, each.entry.speed
    y, number = down(each.measured.value), numbers.get(each.entry.name)
    drawn = []
    if each.measured.interval:
        bottom, top = each.measured.interval
        drawn.append(element("line", x1=x, x2=x, y1=down(bottom), y2=down(top), class_="range"))
    size = f", {each.entry.megabytes:.3g} MB" if each.entry.megabytes else ""
    title = element("title", f"{name}: {each.latency:.3g} ms{size}{f', {speed.device}' if speed else ''}")
    drawn.append(element("circle", title, cx=x, cy=y, r=radius, class_="dot"))
    if is_named:
        is_left = x > 0.7 * WIDTH
        place = x - radius - 5 if is_left else x + radius + 5
        drawn.append(element("text", name, x=place, y=y, class_="left" if is_left else "start"))
    return element("g", *drawn, class_="plain" if number is None else f"c{number}")


def _axes(xs: list[tuple[float, str]], ys: list[tuple[float, str]]) -> list[Markup]:
    bottom = HEIGHT - BOTTOM
    lines = [element("line", x1=x, x2=x, y1=TOP, y2=bottom) for x, _ in xs]
    lines += [element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y) for y, _ in ys]
    texts = [element("text", text, x=x, y=bottom + 15, class_="below") for x, text in xs]
    texts += [element("text", text, x=LEFT - 6, y=y, class_="left") for y, text in ys]
    title = element("text", "latency in ms, one sample (logarithmic)", x=WIDTH - RIGHT, y=HEIGHT - 6, class_="end")
    return [element("g", *lines, *texts, title, class_="grid")]
