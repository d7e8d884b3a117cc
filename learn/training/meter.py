"""Collects losses and hits during an epoch, and computes metrics from them."""

from __future__ import annotations

import torch

from learn.training.criterion import Criterion


class EpochMeter:
    """Collects an epoch's losses and hits (numbers of correct predictions).

    On a GPU they stay there as tensors until the end of the epoch, so that the CPU does not wait for them. On a CPU
    they become Python numbers at once: keeping small tensors while large ones are freed around them makes glibc's heap
    grow by gigabytes.
    """

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion
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

    def new_losses(self) -> list[float]:
        """Returns the losses of the batches added since the last call."""
        new = [float(loss) for loss in self.losses[self._looked_at :]]
        self._looked_at = len(self.losses)
        return new

    def metrics(self, part: str) -> dict[str, float]:
        """Returns the epoch's mean loss and, for classifiers, accuracy, each as the mean over all samples.

        If there are several batches, each has a `*_batch_mean` too: the unweighted mean of batch means, as the course
        prints it.

        Args:
            part: The split's name, which begins the metrics' names.
        """
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        losses = _as_tensor(self.losses)
        if getattr(self.criterion.loss, "reduction", "mean") == "sum":
            losses /= sizes
        means = {"loss": (losses, _as_tensor(self.divisors))}
        if self.criterion.classes:
            means["accuracy"] = (_as_tensor(self.hits) / sizes, sizes)
        metrics = {}
        for name, (values, divisors) in means.items():
            metrics[f"{part}/{name}"] = float((values * divisors).sum() / divisors.sum())
            if len(self.sizes) > 1:
                metrics[f"{part}/{name}_batch_mean"] = float(values.mean())
        return metrics


def _kept(scalar: torch.Tensor | float) -> torch.Tensor | float:
    return scalar.item() if isinstance(scalar, torch.Tensor) and scalar.device.type == "cpu" else scalar


def _as_tensor(scalars: list[torch.Tensor | float]) -> torch.Tensor:
    """Stacks scalar tensors, or numbers, into (B,) float64 on the CPU."""
    if isinstance(scalars[0], torch.Tensor):
        return torch.stack(scalars).cpu().double()  # type: ignore[arg-type]
    return torch.tensor(scalars, dtype=torch.float64)
