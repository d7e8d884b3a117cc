"""Finds the test samples on which a model is most sure of a wrong answer."""

from __future__ import annotations

from typing import Any

import numpy as np

from flows.reports.comparison.answers import one_seed, png, test_inputs
from flows.reports.comparison.records import Mistake
from learn.evaluation.predictions import read
from tasks.workspace.paths import scored_file

MOST_MODELS = 3  # the best ones
MOST_SHOWN = 8  # mistakes of each
MOST_VALUES = 8  # that are shown of an input that is no picture

Row = dict[str, Any]


def confident_mistakes(rows: list[Row], reports: dict[str, Row]) -> dict[str, tuple[Mistake, ...]]:
    """Returns experiment → its most confident mistakes, for the best experiments that make any.

    Args:
        rows: The dataset's rows of the table of results, best first.
        reports: Experiment → the content of its report file.
    """
    found = {row["experiment"]: _mistakes(row, reports[row["experiment"]]) for row in rows[:MOST_MODELS]}
    return {name: mistakes for name, mistakes in found.items() if mistakes}


def _mistakes(row: Row, report: Row) -> tuple[Mistake, ...]:
    """Returns a model's most confident mistakes; none if it is not known how sure it was."""
    test = read(scored_file(row["dataset"], row["experiment"]), "test")
    if test is None or test.confidence is None or (found := test_inputs(row["dataset"], test)) is None:
        return ()
    inputs, scale = found
    answers, sure = (one_seed(each, row, report) for each in (test.predictions, test.confidence))
    wrong = np.flatnonzero(answers != test.targets)
    most = wrong[np.argsort(-sure[wrong], kind="stable")[:MOST_SHOWN]]
    is_picture = inputs.ndim == 4 and inputs.shape[1] in (1, 3)
    return tuple(
        Mistake(
            int(number),
            png(inputs[number] / scale) if is_picture else b"",
            "" if is_picture else _values(inputs[number] / scale),
            int(test.targets[number]),
            int(answers[number]),
            float(sure[number]),
        )
        for number in most
    )


def _values(sample: np.ndarray) -> str:
    """Returns the first numbers of an input as text."""
    numbers = [f"{value:.3g}" for value in sample.ravel()[:MOST_VALUES].tolist()]
    return ", ".join([*numbers, *(["…"] if sample.size > MOST_VALUES else [])]).replace("-", "−")
