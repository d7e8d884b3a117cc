"""A straight line from two `nn.Parameter`s: y = weight × x + bias (learnpytorch.io, chapter 1)."""

from __future__ import annotations

import torch
from torch import nn


class Line(nn.Module):
    """Maps inputs (N, 1) to predictions (N, 1); weight and bias are drawn from N(0, 1)."""

    def __init__(self, input_shape: tuple[int, ...], output_size: int) -> None:
        super().__init__()
        if input_shape != (1,) or output_size != 1:
            raise ValueError(f"one number in, one number out; not {input_shape} in, {output_size} out")
        self.weight = nn.Parameter(torch.randn(1))
        self.bias = nn.Parameter(torch.randn(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes weight × x + bias, (N, 1)."""
        return self.weight * x + self.bias
