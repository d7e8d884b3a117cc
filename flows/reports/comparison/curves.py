"""Draws the curves of several experiments over one another, with a linear and a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from flows.reports.comparison.records import Curve, Report
from flows.reports.comparison.svg import element, linear_ticks, logarithmic_ticks

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 18, 8, 30  # margins
MOST_EPOCHS = 200  # epochs that are drawn of each curve
KINDS = ("loss", "accuracy")

Place = Callable[[float], float]


@dataclass(frozen=True)
class Chart:
    """A figure with the curves of one metric.

    Attributes:
        title: Such as `validation loss`.
        svg: The figure, in which the logarithmic scale is hidden.
        data: What the page's script needs to show values: the axis, and the values of each experiment.
        is_logarithmic: Whether the figure has a logarithmic scale, too.
    """

    title: str
    svg: Markup
    data: dict[str, Any]
    is_logarithmic: bool


def charts(report: Report) -> list[Chart]:
    """Returns a chart for each metric that was measured after each epoch: losses first."""
    names = [f"{part}/{kind}" for kind in KINDS for part in (report.part, "train")]
    found = []
    for name in names:
        curves = {
            number: (entry.name, _thinned(entry.details.curves[name]))
            for number, entry in enumerate(report.drawn)
            if entry.details and name in entry.details.curves
        }
        if curves:
            found.append(_chart(name.replace("/", " "), curves))
    return found


def _thinned(curve: Curve) -> Curve:
    """Returns a curve with at most MOST_EPOCHS epochs, the first and the last among them."""
    total = len(curve.epochs)
    if total <= MOST_EPOCHS:
        return curve
    kept = sorted({round(step * (total - 1) / (MOST_EPOCHS - 1)) for step in range(MOST_EPOCHS)})
    epochs = tuple(curve.epochs[at] for at in kept)
    mean, low, high = (
        tuple(values[at] for at in kept) if values else () for values in (curve.mean, curve.low, curve.high)
    )
    return Curve(epochs, mean, low, high)


def _chart(title: str, curves: dict[int, tuple[str, Curve]]) -> Chart:
    """Draws curves; the number of an experiment gives its colour."""
    values = [v for _, c in curves.values() for v in (*c.mean, *c.low, *c.high) if math.isfinite(v)] or [0.0]
    last = max(curve.epochs[-1] for _, curve in curves.values())
    across = _scale(1, max(last, 2), LEFT, WIDTH - RIGHT)
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    linear = _scale(low, high, HEIGHT - BOTTOM, TOP)
    is_logarithmic = low > 0 and title.endswith("loss")
    scales = {"linear": (linear, linear_ticks(low, high))}
    if is_logarithmic:
        down = _scale(math.log10(low), math.log10(high), HEIGHT - BOTTOM, TOP)
        scales["logarithmic"] = (lambda value: down(math.log10(value)), logarithmic_ticks(low, high))
    grids = [_grid(name, place, ticks) for name, (place, ticks) in scales.items()]
    places = [place for place, _ in scales.values()]
    lines = [_line(number, curve, across, places) for number, (_, curve) in curves.items()]
    svg = element(
        "svg", *grids, _epochs(last, across), *lines,
        element("line", class_="cursor", y1=TOP, y2=HEIGHT - BOTTOM, hidden=""),
        viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=_label(title, curves),
    )  # fmt: skip
    data = {"left": LEFT, "right": WIDTH - RIGHT, "width": WIDTH, "last": max(last, 2), "series": _series(curves)}
    return Chart(title, svg, data, is_logarithmic)


def _scale(low: float, high: float, start: float, end: float) -> Place:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _grid(name: str, place: Place, ticks: list[float]) -> Markup:
    lines = [element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=place(tick), y2=place(tick)) for tick in ticks]
    texts = [element("text", f"{tick:.4g}", x=LEFT - 6, y=place(tick), class_="left") for tick in ticks]
    return element("g", *lines, *texts, class_=f"grid {name}", hidden="" if name == "logarithmic" else None)


def _epochs(last: int, across: Place) -> Markup:
    ticks = [1.0, *(tick for tick in linear_ticks(1, max(last, 2)) if tick > 1 + last / 20 and tick == int(tick))]
    texts = [element("text", f"{tick:.0f}", x=across(tick), y=HEIGHT - BOTTOM + 14, class_="below") for tick in ticks]
    title = element("text", "epoch", x=WIDTH - RIGHT, y=HEIGHT - 2, class_="end")
    return element("g", *texts, title, class_="grid")


def _line(number: int, curve: Curve, across: Place, places: list[Place]) -> Markup:
    """Draws a curve, with its band; `data-other` has the same on the other scale."""

    def both(draw: Callable[[Place], str]) -> dict[str, str | None]:
        first, *other = map(draw, places)
        return {"d": first, "data_other": other[0] if other else None}

    band = []
    if curve.low:

        def outline(place: Place) -> str:
            forth = _path(zip(curve.epochs, curve.high, strict=True), across, place)
            back = _path(zip(reversed(curve.epochs), reversed(curve.low), strict=True), across, place)
            return f"{forth}{back.replace('M', 'L', 1)}Z"

        band.append(element("path", class_="band", **both(outline)))
    drawn = both(lambda place: _path(zip(curve.epochs, curve.mean, strict=True), across, place))
    return element("g", *band, element("path", class_="line", **drawn), class_=f"c{number}", data_series=number)


def _path(points: Iterable[tuple[int, float]], across: Place, place: Place) -> str:
    """Returns the data of a path; where a value is not finite the path has a gap."""
    found, pen = [], "M"
    for epoch, value in points:
        if math.isfinite(value):
            found.append(f"{pen}{across(epoch):.1f} {place(value):.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(found)


def _series(curves: dict[int, tuple[str, Curve]]) -> list[dict[str, Any]]:
    return [
        {
            "number": number,
            "name": name,
            "epochs": curve.epochs,
            "values": [float(f"{value:.5g}") if math.isfinite(value) else None for value in curve.mean],
        }
        for number, (name, curve) in curves.items()
    ]


def _label(title: str, curves: dict[int, tuple[str, Curve]]) -> str:
    ends = ", ".join(f"{name} {curve.mean[-1]:.4g}" for name, curve in curves.values())
    return f"{title} over the epochs; at the end {ends}. Arrow keys move through the epochs."
