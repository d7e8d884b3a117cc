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
        return self.samples, 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (2,)

    @property
    def classes(self) -> tuple[str, ...]:
        return ("outer", "inner")

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import make_circles

        x, y = make_circles(self.samples, noise=self.noise, random_state=self.seed)
        return x.astype(np.float32), y.astype(np.int64)
