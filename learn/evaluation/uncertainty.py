"""How sure a mean over several seeds is, and the difference of two such means.

Two things could have come out otherwise: the seeds, and the samples, which are the same for all seeds. That is the
design of studies in which several readers judge the same cases, and so is the estimate: what the seeds do not share is
seen in their spread, what they share in the covariances of their metrics if samples are drawn again (Obuchowski and
Rockette, Hypothesis Testing of Diagnostic Accuracy for Multiple Readers and Multiple Tests, 1995). The parts of an
interval are added as squares (Howe, Approximate Confidence Limits on the Mean of X + Y, 1974). A bootstrap of seeds
would be too sure: of three seeds it often draws the same one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from learn.evaluation.intervals import Grouped, Interval
from learn.evaluation.metrics import METRICS

RESAMPLES = 1_000  # for a covariance
SMALLEST = 1e-12  # p-value
RESAMPLES_ONE_BY_ONE = 200  # for a metric of a user's own, which is computed resample by resample


@dataclass(frozen=True)
class Uncertainty:
    """The variance of an estimate, in its parts.

    Attributes:
        samples: What the choice of the samples gives, for all seeds together.
        seeds: What the choice of the seeds gives.
        freedom: Degrees of freedom with which that is known.
    """

    samples: float
    seeds: float
    freedom: int

    def interval(self, value: float, level: float) -> Interval:
        """Returns the interval of an estimate."""
        half = self._half(1 - level)
        return Interval(value - half, value + half)

    def p(self, value: float) -> float:
        """Returns the largest level at which the interval of an estimate contains 0, less from 1: its p-value."""
        from scipy.optimize import brentq

        if not self.samples + self.seeds:
            return 1.0
        if self._half(SMALLEST) < abs(value):
            return SMALLEST
        return float(brentq(lambda p: self._half(p) - abs(value), SMALLEST, 1.0))

    def _half(self, missed: float) -> float:
        """Returns half of the interval that misses the truth in so many cases; each part has Student's own factor."""
        from scipy.stats import norm, t

        of_seeds = self.seeds * t.isf(missed / 2, self.freedom) ** 2
        return math.sqrt(self.samples * norm.isf(missed / 2) ** 2 + of_seeds)


def mean_of_seeds(metric: str, samples: Grouped, resamples: int | None = None) -> tuple[float, Uncertainty]:
    """Returns the mean of a metric over the seeds, and how sure it is.

    Args:
        metric: A name in METRICS, of a metric that is computed from predictions.
        samples: The samples, with the predictions of each seed; at least two.
        resamples: Number of resamples; None for the default.
    """
    values, covariances = _measured(metric, samples, resamples)
    seeds = len(values)
    return float(values.mean()), Uncertainty(
        max(0.0, _shared(covariances)), float(values.var(ddof=1)) / seeds, seeds - 1
    )


def difference_of_means(
    metric: str, samples: Grouped, seeds: int, resamples: int | None = None
) -> tuple[float, Uncertainty]:
    """Returns the difference of two models' means over their seeds, and how sure it is.

    Both models are taken to depend on their seeds equally much; so one of them may have just one seed.

    Args:
        metric: A name in METRICS, of a metric that is computed from predictions.
        samples: The samples, with the predictions of each seed of the first model, then of the second.
        seeds: Number of seeds of the first model.
        resamples: Number of resamples; None for the default.
    """
    values, covariances = _measured(metric, samples, resamples)
    first, second = values[:seeds], values[seeds:]
    own = _shared(covariances[:seeds, :seeds]) + _shared(covariances[seeds:, seeds:])
    shared = own - 2 * float(covariances[:seeds, seeds:].mean())
    freedom = len(values) - 2
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in (first, second))
    of_seeds = squares / freedom * (1 / len(first) + 1 / len(second))
    return float(first.mean() - second.mean()), Uncertainty(max(0.0, shared), of_seeds, freedom)


def _measured(metric: str, samples: Grouped, resamples: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns each seed's metric (S,), and the covariances (S, S) of these if samples are drawn again.

    Raises:
        ValueError: The metric is no number for some resamples.
    """
    score = METRICS[metric]
    resamples = resamples or (RESAMPLES if score.weighted else RESAMPLES_ONE_BY_ONE)

    def of(weights: np.ndarray) -> np.ndarray:
        return np.stack([score.of_weights(samples.targets, each, weights) for each in samples.predictions])

    drawn = np.concatenate([of(weights) for weights in samples.weights(resamples)], axis=1)
    with np.errstate(all="ignore"):  # it is looked at below
        covariances = np.atleast_2d(np.cov(drawn))
    if not np.isfinite(covariances).all():
        raise ValueError(f"{metric} cannot be computed for some resamples")
    return of(samples.counts[None].astype(float))[:, 0], covariances


def _shared(covariances: np.ndarray) -> float:
    """Returns the mean covariance of different seeds; of one seed, its variance."""
    seeds = len(covariances)
    if seeds == 1:
        return float(covariances[0, 0])
    return float((covariances.sum() - np.trace(covariances)) / (seeds * (seeds - 1)))
