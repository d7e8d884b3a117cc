"""Intervals: between which values a metric lies, given that a split has only so many samples.

Accuracy has Wilson's interval; every other metric has the bias-corrected and accelerated bootstrap (BCa; Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 14). If the split is stratified, other data would have the
same number of samples of each class, so each class is resampled by itself (Davison and Hinkley, Bootstrap Methods and
their Application, 1997, chapter 3: several samples). Resampled metrics are computed all at once from weights: a sample
that was drawn twice has the weight 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from learn.evaluation.metrics import METRICS
from learn.evaluation.predictions import Predictions

LEVEL = 0.95  # an interval contains the metric of all possible samples in so many of 100 cases
RESAMPLES = 2_000  # Efron and Tibshirani's advice
RESAMPLES_ONE_BY_ONE = 1_000  # for a metric of a user's own, which is computed resample by resample
SEED = 0  # the same samples give the same interval
CELLS = 2**22  # weights in memory at a time
BLOCKS = 1_000  # at most so many values are computed for the jackknife
MOST_DRAWN = 200_000_000  # samples drawn at most for an interval, some 3 seconds
FEWEST_RESAMPLES = 200


@dataclass(frozen=True)
class Interval:
    """A metric's interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Grouped:
    """Samples of which equal ones are counted: with classes there are few different ones.

    Attributes:
        targets: (G,) or (G, 1), one for each group of equal samples.
        predictions: A model's predictions for each group; one array for each model.
        counts: (G,) int64, number of samples in each group.
        strata: (G,) int64: resampling keeps the number of samples of each stratum.
    """

    targets: np.ndarray
    predictions: tuple[np.ndarray, ...]
    counts: np.ndarray
    strata: np.ndarray

    def weights(self, resamples: int, seed: int = SEED) -> Iterator[np.ndarray]:
        """Yields (R, G) float64 arrays, R rows at a time: how often each group was drawn in a resample."""
        random = np.random.default_rng(seed)
        rows = max(1, CELLS // len(self.counts))
        for start in range(0, resamples, rows):
            drawn = np.empty((min(rows, resamples - start), len(self.counts)))
            for stratum in np.unique(self.strata):
                chosen = np.flatnonzero(self.strata == stratum)
                drawn[:, chosen] = _drawn(random, self.counts[chosen], len(drawn))
            yield drawn


def grouped(targets: np.ndarray, *predictions: np.ndarray, classes: int, stratified: bool) -> Grouped:
    """Counts equal samples.

    Args:
        targets: (N,) int64 class indices, or (N, 1) float32 for regression.
        predictions: The same shape and dtype, one array for each model.
        classes: Number of classes; 0 for regression, where no two samples are equal.
        stratified: Whether the split has the same share of each class as all data, so that resampling keeps it.
    """
    if not classes:
        ones = np.ones(len(targets), dtype=np.int64)
        return Grouped(targets, predictions, ones, np.zeros_like(ones))
    rows, counts = np.unique(np.stack([targets, *predictions], axis=1), axis=0, return_counts=True)
    strata = rows[:, 0] if stratified else np.zeros(len(rows), dtype=np.int64)
    return Grouped(rows[:, 0], tuple(rows[:, 1:].T), counts, strata)


def interval(
    metric: str,
    targets: np.ndarray,
    predictions: np.ndarray,
    *,
    classes: int,
    stratified: bool = False,
    level: float = LEVEL,
    resamples: int | None = None,
) -> Interval | None:
    """Returns a metric's interval.

    Returns None if the metric is not computed from predictions, cannot be computed for a resample, or has one sample.

    Args:
        metric: A name in METRICS.
        targets: (N,) int64 class indices, or (N, 1) float32 for regression.
        predictions: The same shape and dtype; for the mean over several seeds (S, N) or (S, N, 1).
        classes: Number of classes; 0 for regression.
        stratified: Whether the split is stratified.
        level: Share of cases in which the interval contains the metric of all possible samples, and of all seeds.
        resamples: Number of resamples; None for the default.
    """
    if METRICS[metric].score is None or len(targets) < 2:
        return None
    if predictions.ndim > targets.ndim:
        return _interval_of_mean(metric, targets, predictions, classes, stratified, level, resamples)
    if metric == "accuracy":
        return wilson(int((targets == predictions).sum()), len(targets), level)
    samples = grouped(targets, predictions, classes=classes, stratified=stratified)

    def of_weights(weights: np.ndarray) -> np.ndarray:
        return METRICS[metric].of_weights(samples.targets, samples.predictions[0], weights)

    try:
        found = bca(of_weights, samples, resamples or resamples_for(metric, len(targets)), level)
    except (ValueError, ArithmeticError):
        return None  # a metric of a user's own, which may need samples of each class
    return found if math.isfinite(found.low) and math.isfinite(found.high) else None


def _interval_of_mean(
    metric: str,
    targets: np.ndarray,
    predictions: np.ndarray,
    classes: int,
    stratified: bool,
    level: float,
    resamples: int | None,
) -> Interval | None:
    """Returns the interval of a metric's mean over several seeds; its arguments are those of `interval`."""
    from learn.evaluation.uncertainty import mean_of_seeds  # here, because that module imports this one

    samples = grouped(targets, *predictions, classes=classes, stratified=stratified)
    try:
        value, uncertainty = mean_of_seeds(metric, samples, resamples)
    except (ValueError, ArithmeticError):
        return None  # a metric of a user's own, which may need samples of each class
    ends, possible = uncertainty.interval(value, level), METRICS[metric]
    found = Interval(max(ends.low, possible.low), min(ends.high, possible.high))
    return found if math.isfinite(found.low) and math.isfinite(found.high) else None


def resamples_for(metric: str, samples: int) -> int:
    """Returns how many resamples an interval takes: fewer if each is computed by itself, or with many samples."""
    usual = RESAMPLES if METRICS[metric].weighted else RESAMPLES_ONE_BY_ONE
    return max(FEWEST_RESAMPLES, min(usual, MOST_DRAWN // samples))


def intervals(found: Predictions, *, stratified: bool) -> dict[str, list[float]]:
    """Returns metric → [low, high] for all metrics that are computed from predictions, rounded to six digits.

    The digits behind them may differ from processor to processor.

    Args:
        found: The predictions for a split.
        stratified: Whether the split is stratified.
    """
    kind = "classification" if found.classes else "regression"
    names = [name for name, metric in METRICS.items() if metric.kind in (kind, "any")]
    measured = {
        name: interval(name, found.targets, found.predictions, classes=found.classes, stratified=stratified)
        for name in names
    }
    return {name: [float(f"{end:.6g}") for end in (each.low, each.high)] for name, each in measured.items() if each}


def wilson(right: int, total: int, level: float = LEVEL) -> Interval:
    """Returns the interval of a share, here of the accuracy (Wilson, 1927), as SciPy computes it."""
    from scipy.stats import binomtest

    found = binomtest(right, total).proportion_ci(confidence_level=level, method="wilson")
    return Interval(float(found.low), float(found.high))


def bca(statistic: Callable[[np.ndarray], np.ndarray], samples: Grouped, resamples: int, level: float) -> Interval:
    """Returns the BCa bootstrap interval of a statistic.

    Args:
        statistic: Maps weights (R, G) to R values.
        samples: The samples.
        resamples: Number of resamples.
        level: Share of cases in which the interval contains the true value.
    """
    from scipy.stats import norm

    observed = statistic(samples.counts[None].astype(float))[0]
    values = np.concatenate([statistic(weights) for weights in samples.weights(resamples)])
    below = ((values < observed).sum() + 0.5 * (values == observed).sum()) / len(values)
    if below in (0, 1):  # all resamples are alike
        return Interval(float(values.min()), float(values.max()))
    bias, acceleration = norm.ppf(below), _acceleration(statistic, samples)
    ends = norm.ppf([(1 - level) / 2, (1 + level) / 2]) + bias
    low, high = np.quantile(values, norm.cdf(bias + ends / (1 - acceleration * ends)))
    return Interval(float(low), float(high))


def _acceleration(statistic: Callable[[np.ndarray], np.ndarray], samples: Grouped) -> float:
    """Returns how fast the statistic's spread changes with its value, by the jackknife.

    One sample is left out at a time or, if there are many, a block of them. Each value is compared with the mean of its
    own stratum (Davison and Hinkley, 1997, section 5.3.2).
    """
    counts = samples.counts.astype(float)
    blocks = _blocks(samples.strata)
    one_by_one = len(blocks) == len(counts)
    times = np.array([counts[block[0]] if one_by_one else 1.0 for block in blocks])
    rows, found = max(1, CELLS // len(counts)), []
    for start in range(0, len(blocks), rows):
        some = blocks[start : start + rows]
        weights = np.repeat(counts[None], len(some), axis=0)
        for row, block in enumerate(some):
            weights[row, block] = weights[row, block] - 1 if one_by_one else 0
        found.append(statistic(weights))
    values, strata = np.concatenate(found), np.array([samples.strata[block[0]] for block in blocks])
    influence = np.zeros(len(blocks))
    for stratum in np.unique(strata):
        own = strata == stratum
        left = 1 - 1 / times[own].sum()
        influence[own] = left * (np.average(values[own], weights=times[own]) - values[own])
    spread = (times * influence**2).sum() ** 1.5
    return float((times * influence**3).sum() / (6 * spread)) if spread else 0.0


def _blocks(strata: np.ndarray) -> list[np.ndarray]:
    """Returns the indices of the groups that the jackknife leaves out together; each block lies in one stratum."""
    most = min(len(strata), BLOCKS)
    each = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    return [block for own in each for block in np.array_split(own, -(-len(own) * most // len(strata)))]


def _drawn(random: np.random.Generator, counts: np.ndarray, rows: int) -> np.ndarray:
    """Returns (rows, G): how often each group is drawn if as many samples are drawn as there are, with replacement."""
    total = int(counts.sum())
    if 8 * len(counts) < total:  # few groups
        return random.multinomial(total, counts / total, size=rows)
    group_of = np.repeat(np.arange(len(counts)), counts)
    chosen = group_of[random.integers(total, size=(rows, total), dtype=np.int32)]
    chosen += np.arange(rows)[:, None] * len(counts)
    return np.bincount(chosen.ravel(), minlength=rows * len(counts)).reshape(rows, len(counts))
