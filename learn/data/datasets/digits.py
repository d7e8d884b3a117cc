"""Handwritten digits that need no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from learn.data.source import Generated


@dataclass(frozen=True)
class Digits(Generated):
    """1,797 handwritten digits, 8×8, 17 grey levels (UCI optdigits' test set, shipped inside scikit-learn)."""

    @property
    def sizes(self) -> tuple[int, int]:
        return 1797, 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, 8, 8)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple("0123456789")

    @property
    def scale(self) -> float:
        return 16.0

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.images.astype(np.uint8)[:, None], digits.target.astype(np.int64)
