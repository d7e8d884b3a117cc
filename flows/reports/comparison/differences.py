"""Compares a dataset's experiments with the best one, on the same samples (learn/comparison/paired.py)."""

from __future__ import annotations

import math

from flows.reports.comparison.records import Difference
from learn.comparison.paired import EXCHANGES, Comparison, compare, holm
from learn.evaluation.intervals import LEVEL, RESAMPLES, RESAMPLES_ONE_BY_ONE
from learn.evaluation.metrics import METRICS
from learn.evaluation.predictions import Predictions

MOST_DRAWN = 25_000_000  # samples drawn for all comparisons together, about a second


def differences(
    metric: str,
    best: Predictions,
    others: dict[str, Predictions],
    *,
    stratified: bool,
    level: float,
    intervals: bool,
) -> dict[str, Difference]:
    """Returns experiment → its difference from the best one, for those that can be compared with it.

    Args:
        metric: A name in METRICS.
        best: What the best experiment predicted on the split that decides.
        others: The same for other experiments.
        stratified: Whether the split is stratified.
        level: p-values above it are explained by chance.
        intervals: Whether the differences have intervals.
    """
    if METRICS[metric].score is None:
        return {}
    same = {name: each for name, each in others.items() if each.data == best.data and each.classes == best.classes}
    enough = math.ceil(2 * len(same) / level)  # with fewer, no corrected p-value could be below the level
    resamples = max(enough, MOST_DRAWN // max(1, len(same) * len(best.targets)))
    usual = RESAMPLES if metric == "accuracy" else EXCHANGES if METRICS[metric].weighted else RESAMPLES_ONE_BY_ONE
    found: dict[str, Comparison] = {}
    for name, each in same.items():
        try:
            found[name] = compare(
                metric,
                best.targets,
                each.predictions,
                best.predictions,
                classes=best.classes,
                stratified=stratified,
                level=LEVEL if intervals else None,
                resamples=resamples if resamples < usual else None,
            )
        except (ValueError, ArithmeticError):  # a metric of a user's own, which some predictions do not allow
            continue
    corrected = holm([each.p for each in found.values()])
    return {
        name: Difference(
            each.difference, (each.interval.low, each.interval.high) if each.interval else None, p, p <= level
        )
        for (name, each), p in zip(found.items(), corrected, strict=True)
    }
