"""Ranks a dataset's experiments, best first: the table of results and the champion use this same order."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from learn.evaluation.metrics import METRICS


def ranked(rows: list[dict[str, Any]], split: str, metric: str) -> list[dict[str, Any]]:
    """Returns the rows sorted by a metric on a split, best first.

    Rows whose metric is NaN or was not measured come last. Ties go to the model with fewer parameters, then to the name
    that is first in the alphabet.

    Args:
        rows: One row per experiment: the content of its metrics file, and its name as `experiment`.
        split: `validation` or `test`.
        metric: A name in METRICS.
    """
    sign = -1 if METRICS[metric].better == "higher" else 1

    def key(row: dict[str, Any]) -> tuple[float, int, str]:
        value = metric_of(row, split, metric)
        return (sign * value if is_number(value) else math.inf, row["parameters"], row["experiment"])

    return sorted(rows, key=key)


def metric_of(row: dict[str, Any], split: str, metric: str) -> float | None:
    """Returns a metric of a row on a split; None if it was not measured. Test metrics are at the row's top level."""
    values: dict[str, float] = row if split == "test" else row.get(split, {})
    return values.get(metric)


def is_number(value: float | None) -> TypeGuard[float]:
    """Returns whether a metric was measured and is not NaN."""
    return value is not None and not math.isnan(value)
