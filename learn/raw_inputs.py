"""A trained model as it is registered: it takes stored inputs, such as pixels up to 255, and gives probabilities."""

from __future__ import annotations

import torch
from torch import nn

from learn.training.criterion import Criterion


class RawInputs(nn.Module):
    """Scales inputs, applies the model, and tells classes and probabilities; torch.export makes one graph of all.

    Args:
        model: Maps prepared inputs to logits, or what else the loss takes (see `Criterion.takes`).
        criterion: The loss that it was trained with.
        scale: Divides inputs that are integers, as `Split.prepare` does.
    """

    def __init__(self, model: nn.Module, criterion: Criterion, scale: float) -> None:
        super().__init__()
        self.model = model
        self._criterion = criterion
        self._scale = scale

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predicts a batch.

        Args:
            inputs: (N, *shape), as the transform stage stores them: uint8 or float32.

        Returns:
            `output` (N, output_size), what the loss takes; `prediction`, (N,) int64 class indices or (N, 1) float32;
            for a classifier also `probabilities` (N, classes).
        """
        output = self.model(inputs if inputs.is_floating_point() else inputs.div(self._scale))
        found = {"output": output, "prediction": self._criterion.predict(output)}
        return found | {"probabilities": self._criterion.probabilities(output)} if self._criterion.classes else found
