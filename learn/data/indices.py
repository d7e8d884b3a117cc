"""Which samples are in the train, validation and test split; scikit-learn draws them, seeded."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

VALIDATION = 0.0  # defaults of params.yaml: a change of one changes the splits
STRATIFY = False

Test = float | Literal["official"]  # a fraction, or the set's own test part


def split_sizes(test: Test, validation: float, free: int, official: int) -> dict[str, int]:
    """Samples in train, validation and test, rounded as scikit-learn does (up for the smaller parts).

    free, official: samples outside and inside the official test set; fractions are of the former.
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
    """Part → indices (n,) int64. targets: (N,) or (N, 1), the official test set last. Raises ValueError if a class has
    too few samples."""
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
