"""What is counted during an epoch, and the metrics that come of it."""

from __future__ import annotations

import torch

from learn.training.criterion import Criterion


class EpochMeter:
    """An epoch's losses and hits. On a GPU they stay there until the end: nothing waits for it within the epoch.

    On a CPU they become numbers at once: small tensors that are kept between large ones that are freed make glibc's
    heap grow by gigabytes.
    """

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion
        self.losses: list[torch.Tensor | float] = []
        self.hits: list[torch.Tensor | float] = []
        self.sizes: list[int] = []
        self.finite_inputs: list[torch.Tensor] = []  # on a GPU: whether each batch's are
        self.divisors: list[torch.Tensor | float] = []  # of each loss that is a mean
        self._looked_at = 0

    def add(self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        self.losses.append(_kept(loss))
        self.sizes.append(len(targets))
        self.divisors.append(_kept(self.criterion.divisor(targets)))
        if self.criterion.classes:
            if targets.ndim == 2:  # probabilities, after MixUp or CutMix
                targets = targets.argmax(1)
            self.hits.append(_kept((self.criterion.predict(logits) == targets).sum()))

    def new_losses(self) -> list[float]:
        """Of the batches since the last call."""
        new = [float(loss) for loss in self.losses[self._looked_at :]]
        self._looked_at = len(self.losses)
        return new

    def metrics(self, part: str) -> dict[str, float]:
        """The mean over samples, and `*_batch_mean`: the unweighted mean of batch means, as the course prints it."""
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
    """One or the other kind → (B,) float64 on the CPU."""
    if isinstance(scalars[0], torch.Tensor):
        return torch.stack(scalars).cpu().double()  # type: ignore[arg-type]
    return torch.tensor(scalars, dtype=torch.float64)
