"""Two circles, one inside the other (chapter 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from learn.data.source import Generated, check_samples


@dataclass(frozen=True)
class Circles(Generated):
    """Two concentric circles, one class each (chapter 2; sklearn.datasets.make_circles)."""

    samples: int
    noise: float
    seed: int

    def __post_init__(self) -> None:
        check_samples(self.samples, minimum=2)
        if self.noise < 0:
            raise ValueError(f"noise is {self.noise}; it must be >= 0")

    @property
    def sizes(self) -> tuple[int, int]:
        """All samples; there is no official test set."""
        return self.samples, 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The two coordinates of a point."""
        return (2,)

    @property
    def classes(self) -> tuple[str, ...]:
        """The outer circle is class 0, the inner one class 1."""
        return ("outer", "inner")

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        """Draws points (N, 2) float32 from the seed, and the index of each point's circle, (N,) int64."""
        from sklearn.datasets import make_circles

        x, y = make_circles(self.samples, noise=self.noise, random_state=self.seed)
        return x.astype(np.float32), y.astype(np.int64)
