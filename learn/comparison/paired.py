"""Whether two models differ by more than chance, on the same samples.

Accuracy is compared by McNemar's exact test (Dietterich, Approximate Statistical Tests for Comparing Supervised
Classification Learning Algorithms, 1998), every other metric by randomization: if the models are equally good, it does
not matter which of the two made which prediction (Noreen, Computer-Intensive Methods for Testing Hypotheses, 1989). The
exchanges are drawn at random; for means over many samples they need not be (sign_flips.py). If a model has several
seeds, their means are compared (learn/evaluation/uncertainty.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from learn.comparison.sign_flips import sign_flips
from learn.evaluation.intervals import (
    CELLS,
    LEVEL,
    SEED,
    Grouped,
    Interval,
    bca,
    grouped,
    resamples_for,
)
from learn.evaluation.metrics import METRICS
from learn.evaluation.predictions import seeds_of
from learn.evaluation.uncertainty import Uncertainty, difference_of_means

EXCHANGES = 10_000  # random exchanges of predictions; 1,000 if a metric is computed for one at a time
MANY = 200  # samples on which two models differ; with so many, no exchange is drawn if the metric is a mean
# What a sample adds to a metric, up to a factor that an exchange does not change: of r2 the spread of the targets.
LOSSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"mae": np.abs, "mse": np.square, "r2": np.square}
POWER = 0.8  # the usual probability of finding a difference that is there


@dataclass(frozen=True)
class Comparison:
    """How one model's metric differs from another one's, on the same samples."""

    difference: float  # the first model's metric less the second one's
    interval: Interval | None  # of the difference; None if not asked for
    p: float  # how often equally good models would differ at least that much
    discordant: float  # share of the samples on which just one is right; NaN for regression or several seeds
    samples: int
    uncertainty: Uncertainty | None = None  # for several seeds: what it is made of
    seeds: int = 1  # the smaller number of seeds


def compare(
    metric: str,
    targets: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    classes: int,
    stratified: bool = False,
    level: float | None = LEVEL,
    resamples: int | None = None,
) -> Comparison:
    """Compares the predictions of two models.

    Args:
        metric: A name in METRICS, of a metric that is computed from predictions.
        targets: (N,) int64 class indices, or (N, 1) float32 for regression.
        first: The first model's predictions; the same shape and dtype, or (S, N) or (S, N, 1) with several seeds.
        second: The second model's, which may have another number of seeds.
        classes: Number of classes; 0 for regression.
        stratified: Whether the split is stratified.
        level: Share of cases in which the interval contains the true difference; None for no interval.
        resamples: Number of resamples and of exchanges; None for the defaults.
    """
    ours, theirs = seeds_of(first, targets), seeds_of(second, targets)
    if len(ours) > 1 or len(theirs) > 1:
        samples = grouped(targets, *ours, *theirs, classes=classes, stratified=stratified)
        value, uncertainty = difference_of_means(metric, samples, len(ours), resamples)
        between = _possible(metric, uncertainty.interval(value, level)) if level else None
        seeds = min(len(ours), len(theirs))
        return Comparison(value, between, uncertainty.p(value), math.nan, len(targets), uncertainty, seeds)
    first, second = ours[0], theirs[0]
    score, samples = METRICS[metric], grouped(targets, first, second, classes=classes, stratified=stratified)

    def difference(weights: np.ndarray) -> np.ndarray:
        return np.subtract(*(score.of_weights(samples.targets, each, weights) for each in samples.predictions))

    discordant = float(((first == targets) != (second == targets)).mean()) if classes else math.nan
    return Comparison(
        float(difference(samples.counts[None].astype(float))[0]),
        bca(difference, samples, resamples or resamples_for(metric, len(targets)), level) if level else None,
        _p_value(metric, samples, resamples) if metric != "accuracy" else mcnemar(targets, first, second),
        discordant,
        len(targets),
    )


def _possible(metric: str, ends: Interval) -> Interval:
    """Returns the part of a difference's interval that the metric's range allows: few seeds leave a wider one."""
    widest = METRICS[metric].high - METRICS[metric].low
    return Interval(max(ends.low, -widest), min(ends.high, widest))


def mcnemar(targets: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Returns the two-sided p-value of McNemar's exact test, which looks at samples on which just one model is right.

    Args:
        targets: (N,) int64 class indices.
        first: The first model's predictions; the same shape and dtype.
        second: The second model's.
    """
    from scipy.stats import binomtest

    only_first = int(((first == targets) & (second != targets)).sum())
    only_second = int(((first != targets) & (second == targets)).sum())
    both = only_first + only_second
    return float(binomtest(only_first, both).pvalue) if both else 1.0


def _p_value(metric: str, samples: Grouped, resamples: int | None) -> float:
    """Returns the p-value of a randomization test; `resamples` is the number of exchanges, None for the default."""
    if metric in LOSSES:
        errors = (np.subtract(each, samples.targets, dtype=float).ravel() for each in samples.predictions)
        differences = np.subtract(*(LOSSES[metric](each) for each in errors))
        if np.count_nonzero(differences) >= MANY:
            return sign_flips(differences)
    return _randomization(metric, samples, resamples or (EXCHANGES if METRICS[metric].weighted else 1_000))


def _randomization(metric: str, samples: Grouped, resamples: int) -> float:
    """Returns the two-sided p-value of the metric's difference if predictions are exchanged at random."""
    score, random = METRICS[metric], np.random.default_rng(SEED)
    first, second = samples.predictions
    targets = np.concatenate([samples.targets, samples.targets])
    one, other = np.concatenate([first, second]), np.concatenate([second, first])

    def difference(kept: np.ndarray) -> np.ndarray:
        weights = np.empty((len(kept), 2 * len(samples.counts)))
        weights[:, : len(samples.counts)] = kept
        np.subtract(samples.counts, kept, out=weights[:, len(samples.counts) :])
        return score.of_weights(targets, one, weights) - score.of_weights(targets, other, weights)

    observed = abs(difference(samples.counts[None])[0])
    rows = max(1, CELLS // (2 * len(samples.counts)))
    as_large = 0
    for start in range(0, resamples, rows):
        differences = difference(_kept(random, samples.counts, min(rows, resamples - start)))
        as_large += int((~(np.abs(differences) < observed * (1 - 1e-9))).sum())  # NaN counts as large
    return (1 + as_large) / (1 + resamples)


def _kept(random: np.random.Generator, counts: np.ndarray, rows: int) -> np.ndarray:
    """Returns (rows, G): how many samples of each group keep their predictions if a coin is tossed for each sample."""
    size = rows, len(counts)
    if counts.max() == 1:  # one coin a group, ten times as fast as the binomial distribution
        return random.integers(2, size=size, dtype=np.int8)
    return random.binomial(counts, 0.5, size=size)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for being several, in the order given.

    The procedure is Holm's (A Simple Sequentially Rejective Multiple Test Procedure, 1979). SciPy lacks it, and the
    import of statsmodels takes a second.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def samples_needed(difference: float, discordant: float, level: float = 0.05, power: float = POWER) -> int:
    """Returns how many samples tell a difference in accuracy by McNemar's test (Connor, 1987).

    Args:
        difference: The true difference in accuracy.
        discordant: Share of the samples on which just one of the two models is right.
        level: How often equally good models may be told apart.
        power: How often the difference is to be found.
    """
    from scipy.stats import norm

    discordant = max(discordant, abs(difference))
    chance, found = norm.ppf(1 - level / 2), norm.ppf(power)
    spread = chance * math.sqrt(discordant) + found * math.sqrt(discordant - difference**2)
    return math.ceil((spread / difference) ** 2)


def what_would_tell(difference: float, found: Comparison, level: float) -> str:
    """Returns how many samples, or how many more seeds, would tell a difference in accuracy, as text.

    How seeds differ is not known of models with one seed each. At best two seeds of a model differ as the two models
    do, in some samples and not in their skill; then S seeds are worth S times as many samples.

    Args:
        difference: The true difference in accuracy.
        found: A comparison of the two models' accuracies.
        level: How often equally good models may be told apart.
    """
    from scipy.stats import norm

    uncertainty = found.uncertainty
    if uncertainty is None:
        samples = samples_needed(difference, found.discordant, level)
        if samples <= found.samples:
            return "these samples"
        return f"{samples:,} samples or at least {math.ceil(samples / found.samples) - 1:,} more seeds"
    allowed = (difference / float(norm.ppf(1 - level / 2) + norm.ppf(POWER))) ** 2  # variance
    if uncertainty.samples + uncertainty.seeds <= allowed:
        return "these samples and seeds"
    ways = []
    if uncertainty.seeds < allowed:
        samples = math.ceil(found.samples * uncertainty.samples / (allowed - uncertainty.seeds))
        ways.append(f"{samples:,} samples")
    if uncertainty.samples < allowed:
        seeds = math.ceil(found.seeds * uncertainty.seeds / (allowed - uncertainty.samples))
        ways.append(f"{seeds - found.seeds:,} more seeds")
    return " or ".join(ways) or "only more samples and more seeds together"
