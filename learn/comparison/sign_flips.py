"""The paired randomization test of a mean over many samples, without drawing: its tail by the saddlepoint method.

If two models are equally good, each sample's difference may as well have the other sign. With n samples there are 2^n
ways to choose the signs. The distribution of the sum over all of them is approximated from its cumulant generating
function (Robinson, Saddlepoint Approximations for Permutation Tests and Confidence Intervals, 1982), and its tail by
Lugannani and Rice's formula (Saddle Point Approximation for the Distribution of the Sum of Independent Random
Variables, 1980). It takes milliseconds; drawing 10,000 times the signs of 10,000 samples takes a second.
"""

from __future__ import annotations

import math

import numpy as np

CENTRE = 0.05  # standard deviations; so near to 0 the formula divides by nearly 0, and the normal tail is as good


def sign_flips(differences: np.ndarray) -> float:
    """Returns the two-sided p-value of the sum of differences: how often random signs make it at least as large.

    Args:
        differences: (N,), one for each sample, some 100 or more; 1 is returned if their sum is not finite.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    total, sizes = abs(float(differences.sum())), np.abs(differences[differences != 0]).astype(float)
    if not math.isfinite(total) or total == 0:
        return 1.0
    if (differences >= 0).all() or (differences <= 0).all():
        return float(2.0 ** (1 - len(sizes)))
    total, sizes = total / sizes.max(), sizes / sizes.max()
    deviations = total / math.sqrt(float((sizes**2).sum()))
    if deviations < CENTRE:
        return float(2 * norm.sf(deviations))

    def too_large(tilt: float) -> float:
        return float((sizes * np.tanh(tilt * sizes)).sum()) - total

    high = 1.0
    while too_large(high) < 0:
        high *= 2
    tilt = brentq(too_large, 0, high)
    x = tilt * sizes
    cumulant = float((x + np.log1p(np.exp(-2 * x)) - math.log(2)).sum())  # of log(cosh(x)), which does not overflow
    variance = float((sizes**2 * (1 - np.tanh(x) ** 2)).sum())
    root, step = math.sqrt(2 * (tilt * total - cumulant)), tilt * math.sqrt(variance)
    if step == 0:  # one sample is so much larger than all others that they do not count
        return 1.0
    return min(1.0, float(2 * (norm.sf(root) + norm.pdf(root) * (1 / step - 1 / root))))
