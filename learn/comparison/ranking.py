"""A dataset's experiments, best first: the one order for the table and for the champion."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from learn.evaluation.metrics import METRICS


def ranked(rows: list[dict[str, Any]], split: str, metric: str) -> list[dict[str, Any]]:
    """The rows, best first by a metric on a split.

    A metric that is NaN or was not measured comes last. Among equals fewer parameters come first, then the name.

    Args:
        rows: one per experiment, with the content of its metrics file and its name as `experiment`.
        split: `validation` or `test`.
        metric: a name in METRICS.
    """
    sign = -1 if METRICS[metric].better == "higher" else 1

    def key(row: dict[str, Any]) -> tuple[float, int, str]:
        value = metric_of(row, split, metric)
        return (sign * value if is_number(value) else math.inf, row["parameters"], row["experiment"])

    return sorted(rows, key=key)


def metric_of(row: dict[str, Any], split: str, metric: str) -> float | None:
    """A metric of a row on a split; None if it has not been measured. Test metrics stand at the row's top level."""
    values: dict[str, float] = row if split == "test" else row.get(split, {})
    return values.get(metric)


def is_number(value: float | None) -> TypeGuard[float]:
    """Whether a metric was measured and is not NaN."""
    return value is not None and not math.isnan(value)
