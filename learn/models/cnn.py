"""A small convolutional network for few images, with batch norm in each block and global average pooling at the end.

Sources: Ioffe and Szegedy 2015 (batch normalization), Lin et al. 2013 (global average pooling).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


class CNN(nn.Module):
    """Maps images (N, C, H, W) to logits (N, output_size).

    Args:
        input_shape: (C, H, W). Each block halves the image, so H and W must be at least 2 ** len(hidden_units).
        output_size: Number of logits.
        hidden_units: Number of channels of each block.
        dropout: Fraction of the last block's channels that is dropped in training.
    """

    def __init__(
        self, input_shape: tuple[int, ...], output_size: int, *, hidden_units: list[int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        smallest = 2 ** len(hidden_units)
        if len(input_shape) != 3 or min(input_shape[1:]) < smallest:
            raise ValueError(
                f"with {len(hidden_units)} hidden_units it takes images (channels, height, width) of at least "
                f"{smallest}×{smallest}; the inputs are {input_shape}"
            )
        if not hidden_units or min(hidden_units) < 1:
            raise ValueError(f"hidden_units {hidden_units} must have one number >= 1 or more")
        channels = [input_shape[0], *hidden_units]
        self.blocks = nn.Sequential(*(_block(i, o) for i, o in pairwise(channels)))
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(hidden_units[-1], output_size),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits (N, output_size) from images (N, C, H, W)."""
        return self.classifier(self.blocks(x))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    """Builds a block that maps (N, inputs, H, W) to (N, outputs, H // 2, W // 2)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
