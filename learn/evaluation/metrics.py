"""Metrics on the held-out splits; one of them decides which experiment becomes champion.

To add one, write a function of (targets, predictions) and its entry in METRICS. For classifiers both are (N,) int64
class indices, for regression (N, 1) float32. scikit-learn computes the existing ones.
"""

from __future__ import annotations

import math
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


Weighted = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _mean(of_sample: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Weighted:
    """Returns the weighted form of a metric that is a mean over the samples."""

    def weighted(targets: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weights @ of_sample(targets, predictions).ravel() / weights.sum(axis=1)

    return weighted


def _macro(of_class: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Weighted:
    """Returns the weighted form of a metric that is a mean over the classes.

    Args:
        of_class: Maps the weights of the samples that are right, predicted and actual in a class to its value.
    """

    def weighted(targets: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
        classes = np.arange(max(targets.max(), predictions.max()) + 1)
        is_target, is_predicted = targets[:, None] == classes, predictions[:, None] == classes
        right, actual, predicted = (
            weights @ of.astype(float) for of in (is_target & is_predicted, is_target, is_predicted)
        )
        present = actual + predicted > 0
        return np.where(present, of_class(right, predicted, actual), 0).sum(axis=1) / present.sum(axis=1)

    return weighted


def _share(of: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(of, whole, out=np.zeros_like(of), where=whole > 0)


def _r2(targets: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    truth = targets.ravel().astype(float)
    errors = weights @ (truth - predictions.ravel()) ** 2
    mean = weights @ truth / weights.sum(axis=1)
    spread = weights @ truth**2 - weights.sum(axis=1) * mean**2
    return 1 - errors / np.maximum(spread, np.finfo(float).tiny)


@dataclass(frozen=True)
class Metric:
    """A metric: the datasets it is for, which values are better, and how to compute it."""

    kind: Literal["classification", "regression", "any"]
    better: Literal["higher", "lower"]
    score: Callable[[np.ndarray, np.ndarray], float] | None  # of (targets, predictions); None: the loop measures it
    weighted: Weighted | None = None  # computes many values at once for intervals; without it they take a second
    low: float = -math.inf  # the metric is never below this
    high: float = math.inf  # nor above this

    def of_weights(self, targets: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Returns the metric for each of several weightings of the samples.

        Args:
            targets: (G,) or (G, 1).
            predictions: The same shape.
            weights: (R, G): how often each sample counts; whole numbers.

        Returns:
            (R,) float64.
        """
        if self.weighted:
            return self.weighted(targets, predictions, weights)
        assert self.score
        times = weights.astype(int)
        return np.array([self.score(np.repeat(targets, n, axis=0), np.repeat(predictions, n, axis=0)) for n in times])

    def beats(self, value: float, other: float) -> bool:
        """Returns whether a value is strictly better than another one."""
        return value > other if self.better == "higher" else value < other


_SHARE: dict[str, Any] = {"low": 0, "high": 1}
_MACRO = {"average": "macro", "zero_division": 0.0}

METRICS: dict[str, Metric] = {
    "loss": Metric("any", "lower", None),
    "accuracy": Metric("classification", "higher", _sklearn("accuracy_score"), _mean(np.equal), **_SHARE),
    "precision_macro": Metric(
        "classification",
        "higher",
        _sklearn("precision_score", **_MACRO),
        _macro(lambda right, predicted, actual: _share(right, predicted)),
        **_SHARE,
    ),
    "recall_macro": Metric(
        "classification",
        "higher",
        _sklearn("recall_score", **_MACRO),
        _macro(lambda right, predicted, actual: _share(right, actual)),
        **_SHARE,
    ),
    "f1_macro": Metric(
        "classification",
        "higher",
        _sklearn("f1_score", **_MACRO),
        _macro(lambda right, predicted, actual: _share(2 * right, predicted + actual)),
        **_SHARE,
    ),
    "mae": Metric("regression", "lower", _sklearn("mean_absolute_error"), _mean(lambda t, p: np.abs(t - p)), low=0),
    "mse": Metric("regression", "lower", _sklearn("mean_squared_error"), _mean(lambda t, p: (t - p) ** 2), low=0),
    "r2": Metric("regression", "higher", _sklearn("r2_score"), _r2, high=1),
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
