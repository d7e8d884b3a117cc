"""Metrics on the held-out splits; one of them decides which experiment becomes champion.

To add one, write a function of (targets, predictions) and its entry in METRICS. For classifiers both are (N,) int64
class indices, for regression (N, 1) float32. scikit-learn computes the existing ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np


def _sklearn(name: str, **arguments: Any) -> Callable[[np.ndarray, np.ndarray], float]:
    """Returns a function that calls sklearn.metrics.NAME and imports it (1 s) at its first call."""

    def score(targets: np.ndarray, predictions: np.ndarray) -> float:
        import sklearn.metrics

        return float(getattr(sklearn.metrics, name)(targets, predictions, **arguments))

    return score


@dataclass(frozen=True)
class Metric:
    """A metric: the datasets it is for, which values are better, and how to compute it."""

    kind: Literal["classification", "regression", "any"]
    better: Literal["higher", "lower"]
    score: Callable[[np.ndarray, np.ndarray], float] | None  # of (targets, predictions); None: the loop measures it

    def beats(self, value: float, other: float) -> bool:
        """Returns whether a value is strictly better than another one."""
        return value > other if self.better == "higher" else value < other


_MACRO = {"average": "macro", "zero_division": 0.0}

METRICS: dict[str, Metric] = {
    "loss": Metric("any", "lower", None),
    "accuracy": Metric("classification", "higher", _sklearn("accuracy_score")),
    "precision_macro": Metric("classification", "higher", _sklearn("precision_score", **_MACRO)),
    "recall_macro": Metric("classification", "higher", _sklearn("recall_score", **_MACRO)),
    "f1_macro": Metric("classification", "higher", _sklearn("f1_score", **_MACRO)),
    "mae": Metric("regression", "lower", _sklearn("mean_absolute_error")),
    "mse": Metric("regression", "lower", _sklearn("mean_squared_error")),
    "r2": Metric("regression", "higher", _sklearn("r2_score")),
}


def metrics_for(classes: tuple[str, ...]) -> dict[str, Metric]:
    """Returns the metrics for a dataset with these classes; without classes, those for regression."""
    kind = "classification" if classes else "regression"
    return {name: metric for name, metric in METRICS.items() if metric.kind in (kind, "any")}


def scores(targets: np.ndarray, predictions: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    """Computes every metric in METRICS for this kind of data, except those that the training loop measures.

    Args:
        targets: (N,) int64 class indices, or (N, 1) float32 for regression.
        predictions: The same shape and dtype as `targets`.
        classes: Names of the classes; empty for regression.
    """
    return {n: m.score(targets, predictions) for n, m in metrics_for(classes).items() if m.score}


def per_class(targets: np.ndarray, predictions: np.ndarray, classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Returns precision, recall, F1 and support (number of samples) of each class."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(targets, predictions, labels=np.arange(len(classes)), zero_division=0.0)
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, p, r, f, n in zip(classes, *columns, strict=True)
    }


def confusion(targets: np.ndarray, predictions: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Returns the confusion matrix (classes, classes) int64: rows are true classes, columns predicted ones."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(targets, predictions, labels=np.arange(len(classes)))


def report(targets: np.ndarray, predictions: np.ndarray, classes: tuple[str, ...]) -> str:
    """Returns scikit-learn's classification report as text."""
    from sklearn.metrics import classification_report

    return classification_report(
        targets,
        predictions,
        labels=np.arange(len(classes)),
        target_names=classes,
        digits=4,
        zero_division=0.0,
    )
