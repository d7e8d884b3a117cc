"""Decides which samples are in the train, validation and test split; scikit-learn draws them from a seed."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

VALIDATION = 0.0  # a fraction; this default of params.yaml and the next one are here because they change the splits
STRATIFY = False

Test = float | Literal["official"]  # a fraction, or the official test set that the dataset brings along


def split_sizes(test: Test, validation: float, free: int, official: int) -> dict[str, int]:
    """Returns the numbers of samples in train, validation and test, rounded as scikit-learn does.

    It rounds the sizes of the validation and the test split up.

    Args:
        test: A fraction of `free`, or `official`.
        validation: A fraction of `free`; 0 for no validation split.
        free: Number of samples outside the official test set.
        official: Number of samples in the official test set.
    """
    tested = official if test == "official" else math.ceil(test * free)
    rest = free if test == "official" else free - tested
    validated = math.ceil(validation * free)
    return {"train": rest - validated, "validation": validated, "test": tested}


def split_indices(
    targets: np.ndarray,
    free: int,
    official: int,
    *,
    test: Test,
    validation: float,
    shuffle: bool,
    stratify: bool,
    seed: int,
) -> dict[str, np.ndarray]:
    """Draws the samples of each split.

    Args:
        targets: (N,) or (N, 1), the official test set last.
        free: Number of samples outside the official test set.
        official: Number of samples in the official test set.
        test: A fraction of `free`, or `official`.
        validation: A fraction of `free`; 0 for no validation split.
        shuffle: Draw at random; otherwise the first samples are for training.
        stratify: Give each class the same share in each split.
        seed: Seed of the random draw.

    Returns:
        Split → indices (n,) int64.

    Raises:
        ValueError: A class has too few samples to be in every split.
    """
    from sklearn.model_selection import train_test_split

    sizes = split_sizes(test, validation, free, official)

    def part(index: np.ndarray, size: int) -> list[np.ndarray]:
        return train_test_split(
            index,
            test_size=size,
            shuffle=shuffle,
            random_state=seed if shuffle else None,
            stratify=targets[index] if stratify else None,
        )

    train = np.arange(free)
    parts = {}
    if test == "official":
        parts["test"] = np.arange(free, free + official)
    else:
        train, parts["test"] = part(train, sizes["test"])
    if validation:
        train, parts["validation"] = part(train, sizes["validation"])
    return {"train": train, **parts}
