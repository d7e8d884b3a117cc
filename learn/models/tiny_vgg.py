"""TinyVGG: two blocks of convolution, ReLU, convolution, ReLU, max-pooling, then one linear layer.

Source: the CNN Explainer (Wang et al. 2020), as in learnpytorch.io's chapters 3 and 4.
"""

from __future__ import annotations

import torch
from torch import nn


class TinyVGG(nn.Module):
    """Maps images (N, C, H, W) to logits (N, output_size).

    Args:
        input_shape: (C, H, W), with H and W at least 4.
        output_size: Number of logits.
        hidden_units: Number of channels of each convolution.
        dropout: Fraction of the last layer's inputs that is dropped in training.
    """

    def __init__(
        self, input_shape: tuple[int, ...], output_size: int, *, hidden_units: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if len(input_shape) != 3 or min(input_shape[1:]) < 4:
            raise ValueError(f"it takes images (channels, height, width) of at least 4×4; the inputs are {input_shape}")
        if hidden_units < 1:
            raise ValueError("hidden_units must be >= 1")
        channels, height, width = input_shape
        self.block_1 = _block(channels, hidden_units)
        self.block_2 = _block(hidden_units, hidden_units)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(hidden_units * (height // 4) * (width // 4), output_size),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits (N, output_size) from images (N, C, H, W)."""
        return self.classifier(self.dropout(self.block_2(self.block_1(x))))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    """Builds a block that maps (N, inputs, H, W) to (N, outputs, H // 2, W // 2)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
