"""Handwritten digits that are part of scikit-learn and need no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from learn.data.source import Generated


@dataclass(frozen=True)
class Digits(Generated):
    """1,797 handwritten digits, 8×8, 17 grey levels (UCI optdigits' test set, shipped inside scikit-learn)."""

    @property
    def sizes(self) -> tuple[int, int]:
        """All samples; there is no official test set."""
        return 1797, 0

    @property
    def shape(self) -> tuple[int, ...]:
        """One grey channel of 8×8 pixels."""
        return (1, 8, 8)

    @property
    def classes(self) -> tuple[str, ...]:
        """The ten digits, `0` to `9`."""
        return tuple("0123456789")

    @property
    def scale(self) -> float:
        """The pixels are whole numbers from 0 to 16."""
        return 16.0

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        """Reads the images (N, 1, 8, 8) uint8 and the digits (N,) int64 from scikit-learn's files."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.images.astype(np.uint8)[:, None], digits.target.astype(np.int64)
