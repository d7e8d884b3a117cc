"""The metrics: what they are of a few samples that a person can count."""

from __future__ import annotations

import numpy as np
import pytest

from learn.evaluation.metrics import METRICS, confusion, per_class, scores

TARGETS, PREDICTIONS = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 2])
CLASSES = ("a", "b", "c")


def test_a_classifier_s_metrics() -> None:
    found = scores(TARGETS, PREDICTIONS, CLASSES)
    assert found["accuracy"] == pytest.approx(4 / 5)
    assert found["recall_macro"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert found["precision_macro"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert "mae" not in found
    assert confusion(TARGETS, PREDICTIONS, CLASSES).tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 1]]
    assert per_class(TARGETS, PREDICTIONS, CLASSES)["b"]["precision"] == pytest.approx(2 / 3)


def test_regression_s_metrics() -> None:
    found = scores(np.array([[0.0], [2.0]]), np.array([[1.0], [2.0]]), ())
    assert found == {"mae": 0.5, "mse": 0.5, "r2": pytest.approx(0.5)}


@pytest.mark.parametrize(("metric", "better"), [("accuracy", 0.9), ("loss", 0.1), ("mae", 0.1), ("r2", 0.9)])
def test_which_of_two_values_beats_the_other(metric: str, better: float) -> None:
    worse = 0.5
    assert METRICS[metric].beats(better, worse)
    assert not METRICS[metric].beats(worse, better)
    assert not METRICS[metric].beats(worse, worse)
