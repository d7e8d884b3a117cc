"""Collects losses and hits during an epoch, and computes metrics from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from learn.training.criterion import Criterion
from learn.training.ranks import ALONE, Ranks


class EpochMeter:
    """Collects an epoch's losses and hits (numbers of correct predictions).

    On a GPU they stay there as tensors until the end of the epoch, so that the CPU does not wait for them. On a CPU
    they become Python numbers at once: keeping small tensors while large ones are freed around them makes glibc's heap
    grow by gigabytes.
    """

    def __init__(self, criterion: Criterion, ranks: Ranks = ALONE) -> None:
        self.criterion, self._ranks = criterion, ranks
        self.losses: list[torch.Tensor | float] = []
        self.hits: list[torch.Tensor | float] = []
        self.sizes: list[int] = []
        self.finite_inputs: list[torch.Tensor] = []  # on a GPU only: whether each batch's inputs are finite
        self.divisors: list[torch.Tensor | float] = []  # `Criterion.divisor` of each batch
        self._looked_at = 0

    def add(self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Adds one batch.

        Args:
            loss: The batch's loss, a scalar.
            logits: (B, output_size).
            targets: (B,) classes, (B, classes) probabilities, or (B, 1) for regression.
        """
        self.losses.append(_kept(loss))
        self.sizes.append(len(targets))
        self.divisors.append(_kept(self.criterion.divisor(targets)))
        if self.criterion.classes:
            if targets.ndim == 2:  # probabilities, after MixUp or CutMix
                targets = targets.argmax(1)
            self.hits.append(_kept((self.criterion.predict(logits) == targets).sum()))

    def add_nothing(self) -> None:
        """Adds a batch of which this process has no sample."""
        for each in (self.losses, self.hits, self.sizes, self.divisors):
            each.append(0)

    def new_losses(self) -> list[float]:
        """Returns the losses of the batches added since the last call."""
        new = [float(loss) for loss in self.losses[self._looked_at :]]
        self._looked_at = len(self.losses)
        return new

    def metrics(self, part: str) -> dict[str, float]:
        """Returns the epoch's mean loss and, for classifiers, accuracy, each as the mean over all processes' samples.

        If there are several batches, each has a `*_batch_mean` too: the unweighted mean of batch means, as the course
        prints it.

        Args:
            part: The split's name, which begins the metrics' names.
        """
        sizes, losses, divisors = _as_tensor(self.sizes), _as_tensor(self.losses), _as_tensor(self.divisors)
        hits = _as_tensor(self.hits) if self.criterion.classes else torch.zeros_like(sizes)
        if self.criterion.is_sum:
            losses /= sizes.clamp(min=1)
        if self._ranks.size > 1:
            sums = torch.where(divisors > 0, losses * divisors, 0)  # the loss of targets without weight is NaN
            sums, hits, sizes, divisors = self._ranks.sum(torch.stack([sums, hits, sizes, divisors]))
            losses = sums / divisors
        means = {"loss": (losses, divisors)}
        if self.criterion.classes:
            means["accuracy"] = (hits / sizes, sizes)
        metrics = {}
        for name, (values, divisors) in means.items():
            metrics[f"{part}/{name}"] = float((values * divisors).sum() / divisors.sum())
            if len(self.sizes) > 1:
                metrics[f"{part}/{name}_batch_mean"] = float(values.mean())
        return metrics


def _kept(scalar: torch.Tensor | float) -> torch.Tensor | float:
    return scalar.item() if isinstance(scalar, torch.Tensor) and scalar.device.type == "cpu" else scalar


def _as_tensor(scalars: Sequence[torch.Tensor | float]) -> torch.Tensor:
    """Stacks scalar tensors, or numbers, into (B,) float64 on the CPU."""
    if any(isinstance(scalar, torch.Tensor) for scalar in scalars):
        return torch.stack([torch.as_tensor(scalar, device=_device(scalars)) for scalar in scalars]).cpu().double()
    return torch.tensor(scalars, dtype=torch.float64)


def _device(scalars: Sequence[torch.Tensor | float]) -> torch.device:
    return next(scalar.device for scalar in scalars if isinstance(scalar, torch.Tensor))
