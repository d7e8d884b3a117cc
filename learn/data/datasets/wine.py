"""A table of wines that is part of scikit-learn and needs no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from learn.data.source import Columns, Generated

COLUMNS = (
    "alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids",
    "nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280/od315_of_diluted_wines", "proline",
)  # fmt: skip


@dataclass(frozen=True)
class Wine(Generated):
    """178 wines of three growers, 13 measurements of each (UCI wine; shipped inside scikit-learn)."""

    @property
    def sizes(self) -> tuple[int, int]:
        """All samples; there is no official test set."""
        return 178, 0

    @property
    def shape(self) -> tuple[int, ...]:
        """One number for each measurement."""
        return (len(COLUMNS),)

    @property
    def classes(self) -> tuple[str, ...]:
        """The three growers."""
        return ("grower 1", "grower 2", "grower 3")

    @property
    def column_kinds(self) -> Columns:
        """The measurements, all numbers."""
        return dict.fromkeys(COLUMNS, "number")

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        """Reads the measurements (N, 13) float32 and the growers (N,) int64 from scikit-learn's files."""
        from sklearn.datasets import load_wine

        wine = load_wine()
        return wine.data.astype(np.float32), wine.target.astype(np.int64)
