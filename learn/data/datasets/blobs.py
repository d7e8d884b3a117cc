"""Clouds of points (chapter 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from learn.data.source import Generated, check_samples


@dataclass(frozen=True)
class Blobs(Generated):
    """Gaussian blobs, one class each (chapter 2; sklearn.datasets.make_blobs)."""

    samples: int
    features: int
    centers: int
    cluster_std: float
    seed: int

    def __post_init__(self) -> None:
        check_samples(self.samples, minimum=self.centers)
        if self.features < 1 or self.centers < 2 or self.cluster_std <= 0:
            raise ValueError(
                f"features {self.features}, centers {self.centers}, cluster_std {self.cluster_std}: "
                "it must be features >= 1, centers >= 2, cluster_std > 0"
            )

    @property
    def sizes(self) -> tuple[int, int]:
        """All samples; there is no official test set."""
        return self.samples, 0

    @property
    def shape(self) -> tuple[int, ...]:
        """One number for each feature."""
        return (self.features,)

    @property
    def classes(self) -> tuple[str, ...]:
        """One class for each center: `blob 0`, `blob 1`, ..."""
        return tuple(f"blob {i}" for i in range(self.centers))

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        """Draws points (N, features) float32 from the seed, and the index of each point's blob, (N,) int64."""
        from sklearn.datasets import make_blobs

        x, y = make_blobs(
            n_samples=self.samples,
            n_features=self.features,
            centers=self.centers,
            cluster_std=self.cluster_std,
            random_state=self.seed,
        )
        return x.astype(np.float32), y.astype(np.int64)
