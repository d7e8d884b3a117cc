"""Chooses a fraction of the training samples: `fraction` of an experiment in params.yaml.

    chosen_indices(targets, 0.1, stratify=True, seed=42)   # they lie inside those of 0.2

All samples are put into one order, drawn from a seed, and a fraction is the beginning of that order. So a smaller
fraction lies inside each larger one, and all experiments on a dataset take the same samples.
"""

from __future__ import annotations

import numpy as np


def chosen_samples(samples: int, fraction: float) -> int:
    """Returns how many of the training samples a fraction is: the nearest whole number, and at least one."""
    return max(1, round(fraction * samples))


def chosen_indices(targets: np.ndarray, fraction: float, *, stratify: bool, seed: int) -> np.ndarray:
    """Chooses samples at random, and leaves them in their order.

    Args:
        targets: (N,) or (N, 1), those of all training samples.
        fraction: Greater than 0, at most 1.
        stratify: Give each class the same share of each fraction, as nearly as whole samples can; needs classes.
        seed: Seed of the random draw.

    Returns:
        (n,) int64, ascending.
    """
    drawn = np.random.default_rng(seed).permutation(len(targets))
    if stratify:
        drawn = drawn[np.argsort(_places(targets[drawn]), kind="stable")]
    return np.sort(drawn[: chosen_samples(len(targets), fraction)])


def _places(targets: np.ndarray) -> np.ndarray:
    """Returns (N,): where each sample is among those of its class, from 0 for the first one to 1 for the last one."""
    places = np.empty(len(targets))
    for target in np.unique(targets):
        own = np.flatnonzero(targets == target)
        places[own] = (np.arange(len(own)) + 0.5) / len(own)
    return places
