"""What a loss of torch.nn means for a dataset: how many logits, which targets, which prediction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Objective:
    """A loss, and the classes it tells apart (none: regression).

    A binary loss has one logit for two classes; every other loss one a class. For regression the targets are (N, 1).
    """

    loss: nn.Module
    classes: tuple[str, ...]

    @property
    def binary(self) -> bool:
        return isinstance(self.loss, nn.BCEWithLogitsLoss | nn.BCELoss) and len(self.classes) == 2

    @property
    def output_size(self) -> int:
        """Number of logits."""
        return 1 if self.binary or not self.classes else len(self.classes)

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """logits (N, output_size); targets (N,) int64 classes or (N, 1) float32 → the batch's loss, a scalar."""
        if self.binary:
            return self.loss(logits.squeeze(1), targets.to(logits.dtype))
        return self.loss(logits, targets)

    def predict(self, logits: torch.Tensor) -> torch.Tensor:
        """logits (N, output_size) → classes (N,) int64; for regression the logits themselves."""
        if self.binary:
            threshold = 0.5 if isinstance(self.loss, nn.BCELoss) else 0.0
            return (logits.squeeze(1) > threshold).long()
        return logits.argmax(1) if self.classes else logits
