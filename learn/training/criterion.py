"""Applies a loss of torch.nn to a dataset: it decides the number of logits, the predictions and the probabilities."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import nn


@dataclass(frozen=True)
class Criterion:
    """A loss and the classes that it tells apart; without classes it is for regression.

    A binary loss has one logit for two classes, every other loss one logit for each class. For regression the targets
    are (N, 1).
    """

    loss: nn.Module
    classes: tuple[str, ...]

    @property
    def binary(self) -> bool:
        """Whether the loss has a single logit for two classes."""
        return isinstance(self.loss, nn.BCEWithLogitsLoss | nn.BCELoss) and len(self.classes) == 2

    @property
    def is_sum(self) -> bool:
        """Whether the loss is the sum over a batch and not its mean."""
        return getattr(self.loss, "reduction", "mean") == "sum"

    @property
    def output_size(self) -> int:
        """Number of logits."""
        return 1 if self.binary or not self.classes else len(self.classes)

    def to(self, device: torch.device | str) -> Criterion:
        """Returns a copy whose tensors (weight, pos_weight) are on the device, where logits and targets must be too."""
        return replace(self, loss=copy.deepcopy(self.loss).to(device))

    def divisor(self, targets: torch.Tensor) -> torch.Tensor | int:
        """Returns the number by which the loss divides to get its mean over a batch.

        It is the number of samples, except for CrossEntropyLoss and NLLLoss with class indices as targets (B,): with
        `weight` it is the sum of the targets' weights, and a class that `ignore_index` names does not count; it is then
        a scalar on the targets' device. For probabilities (B, classes), and in all other losses of torch.nn, weights
        change the values but not the divisor.
        """
        loss = self.loss
        if not isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) or loss.reduction != "mean" or targets.ndim > 1:
            return len(targets)
        if loss.weight is None and not 0 <= loss.ignore_index < len(self.classes):
            return len(targets)
        counts = targets != loss.ignore_index
        if loss.weight is None:
            return counts.sum()
        return (loss.weight.take(targets.where(counts, 0)) * counts).sum()

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Computes the loss of a batch, a scalar.

        Args:
            logits: (N, output_size).
            targets: (N,) int64 classes, (N, classes) probabilities, or (N, 1) float32 for regression.
        """
        if self.binary:
            return self.loss(logits.squeeze(1), targets.to(logits.dtype))
        return self.loss(logits, targets)

    def predict(self, logits: torch.Tensor) -> torch.Tensor:
        """Turns logits (N, output_size) into classes (N,) int64; for regression returns the logits."""
        if self.binary:
            threshold = 0.5 if isinstance(self.loss, nn.BCELoss) else 0.0
            return (logits.squeeze(1) > threshold).long()
        return logits.argmax(1) if self.classes else logits

    def probabilities(self, output: torch.Tensor) -> torch.Tensor:
        """Turns a classifier's output (N, output_size) into probabilities (N, classes)."""
        if self.binary:
            second = output if isinstance(self.loss, nn.BCELoss) else output.sigmoid()
            return torch.cat([1 - second, second], dim=1)
        return output.exp() if isinstance(self.loss, nn.NLLLoss) else output.softmax(1)

    @property
    def takes(self) -> str:
        """What the model must return: logits for most losses, (log-)probabilities for NLLLoss and BCELoss."""
        if isinstance(self.loss, nn.NLLLoss):
            return "log-probabilities (nn.LogSoftmax)"
        return "probabilities (nn.Sigmoid)" if isinstance(self.loss, nn.BCELoss) else "logits"

    def accepts(self, output: torch.Tensor) -> bool:
        """Returns whether a model's output (N, output_size) can be what the loss takes."""
        if isinstance(self.loss, nn.NLLLoss):
            return bool(((output.exp().sum(1) - 1).abs() < 1e-3).all())
        return not isinstance(self.loss, nn.BCELoss) or bool(((output >= 0) & (output <= 1)).all())
