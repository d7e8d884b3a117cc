"""Points on a line (chapter 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from learn.data.source import Generated


@dataclass(frozen=True)
class Line(Generated):
    """y = weight × x + bias for x in [start, stop) (chapter 1)."""

    weight: float
    bias: float
    start: float
    stop: float
    step: float

    def __post_init__(self) -> None:
        if self.step <= 0 or self.stop <= self.start:
            raise ValueError(
                f"start {self.start}, stop {self.stop}, step {self.step}: it must be start < stop and step > 0"
            )

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of steps from start to stop; there is no official test set."""
        return int(np.ceil((self.stop - self.start) / self.step)), 0

    @property
    def shape(self) -> tuple[int, ...]:
        """One number, x."""
        return (1,)

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        """Computes x and y, each (N, 1) float32."""
        x = (self.start + self.step * np.arange(self.sizes[0])).astype(np.float32)[:, None]
        return x, np.float32(self.weight) * x + np.float32(self.bias)
