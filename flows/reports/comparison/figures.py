"""Draws what experiments answer: confusion matrices, points in the plane, and true against predicted numbers."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from flows.reports.comparison.records import Entry, Fits, Points, Report
from flows.reports.comparison.svg import element

MOST_MATRICES = 6
MOST_CELLS = 12_000  # in all confusion matrices together
NAMED = 12  # with more classes a confusion matrix has neither names nor numbers
SIDE = 260  # of points and fits
CLASS_COLORS = 6


def matrices(report: Report) -> list[tuple[Entry, Markup]]:
    """Returns the confusion matrices of the best experiments, as many as are drawn quickly."""
    fitting = MOST_CELLS // max(1, len(report.classes) ** 2)
    found = [each for each in report.drawn if each.details and tuple(each.details.recall) == report.classes]
    return [(entry, _matrix(entry, report.classes)) for entry in found[: min(MOST_MATRICES, fitting)] if report.classes]


def _matrix(entry: Entry, classes: tuple[str, ...]) -> Markup:
    """Draws a confusion matrix: rows are true classes; right answers are grey, wrong ones red."""
    assert entry.details
    counts = np.array(entry.details.confusion)
    named = len(classes) <= NAMED
    cell = max(24, min(44, 220 // len(classes))) if named else max(2, 288 // len(classes))
    margin = min(72, 14 + 6 * max(map(len, classes))) if named else 4
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    drawn = []
    for (row, column), count in np.ndenumerate(counts):
        if count:
            x, y = margin + column * cell, margin + row * cell
            kind = "right" if row == column else "wrong"
            strength = 0.12 + 0.4 * float(shares[row, column]) ** 0.5
            title = element("title", f"{count} of the class {classes[row]}, predicted {classes[column]}")
            box = element(
                "rect", title, x=x, y=y, width=cell - 1, height=cell - 1, class_=kind, opacity=f"{strength:.2f}"
            )
            drawn.append(box)
            if named:
                drawn.append(element("text", count, x=x + cell / 2, y=y + cell / 2, class_="middle"))
    labels = _labels(classes, cell, margin) if named else []
    side = margin + cell * len(classes) + 1
    frame = element("rect", x=margin - 1, y=margin - 1, width=side - margin, height=side - margin, class_="frame")
    return element(
        "svg", frame, *labels, *drawn, viewBox=f"0 0 {side} {side}", width=side, role="img",
        aria_label=f"Confusion matrix of {entry.name}: {_worst(counts, classes)}",
    )  # fmt: skip


def _labels(classes: tuple[str, ...], cell: int, margin: int) -> list[Markup]:
    found = []
    for number, name in enumerate(classes):
        text, middle = name if len(name) <= 10 else f"{name[:9]}…", margin + (number + 0.5) * cell
        found.append(element("text", text, x=margin - 6, y=middle, class_="left"))
        turn = f"translate({middle:.1f} {margin - 6}) rotate(-90)" if margin > 26 else None
        place = {"transform": turn} if turn else {"x": middle, "y": margin - 8}
        found.append(element("text", text, class_="start" if turn else "above", **place))
    return found


def _worst(counts: np.ndarray, classes: tuple[str, ...]) -> str:
    """Returns the text for those who do not see the figure: the most frequent mistake."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    if not wrong.any():
        return "no mistakes"
    row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
    return f"{int(wrong.sum())} mistakes; most often {classes[row]} is predicted as {classes[column]}"


def points(found: Points, name: str) -> Markup:
    """Draws test samples in the plane in the colour of the predicted class; wrong ones have a ring."""
    low, high = found.places.min(axis=0), found.places.max(axis=0)
    at = 8 + (found.places - low) / np.where(high > low, high - low, 1) * (SIDE - 16)
    answers = found.answers[name]
    drawn = [
        element("circle", cx=float(x), cy=float(SIDE - y), r=3.2, class_=f"k{answer % CLASS_COLORS}")
        for (x, y), answer in zip(at, answers.tolist(), strict=True)
    ]
    wrong = answers != found.targets
    rings = [element("circle", cx=float(x), cy=float(SIDE - y), r=5.5, class_="ring") for x, y in at[wrong]]
    label = f"{name}: {int(wrong.sum())} of {len(wrong)} points are wrong"
    return _square(label, *drawn, *rings)


def fits(found: Fits, name: str, number: int) -> Markup:
    """Draws predicted against true numbers; on the diagonal they are equal."""
    everything = np.concatenate([found.targets, *found.answers.values()])
    finite = everything[np.isfinite(everything)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    span = (high - low) or 1.0

    def place(values: np.ndarray) -> np.ndarray:
        return 8 + (values - low) / span * (SIDE - 16)

    dots = [
        element("circle", cx=float(x), cy=float(SIDE - y), r=3.2, class_=f"dot c{number}")
        for x, y in zip(place(found.targets), place(found.answers[name]), strict=True)
        if np.isfinite(y)
    ]
    diagonal = element("line", x1=8, y1=SIDE - 8, x2=SIDE - 8, y2=8, class_="diagonal")
    return _square(f"{name}: predicted against true values", diagonal, *dots)


def _square(label: str, *drawn: Markup) -> Markup:
    frame = element("rect", x=0.5, y=0.5, width=SIDE - 1, height=SIDE - 1, class_="frame")
    return element("svg", frame, *drawn, viewBox=f"0 0 {SIDE} {SIDE}", width=SIDE, role="img", aria_label=label)
