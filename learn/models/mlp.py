"""Linear layers one after another (learnpytorch.io, chapters 1 to 3).

hidden_units: [] is one `nn.Linear`; activation: null keeps the model linear however deep it is.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from learn.models.blocks.activation import activation_layers


class MLP(nn.Module):
    """inputs (N, *input_shape), flattened → logits (N, output_size).

    hidden_units: units of each hidden layer. activation: a class of torch.nn (ReLU, Tanh, ...) after each hidden layer,
    or null. output_activation: likewise after the last layer; the course's Fashion-MNIST V1 has a ReLU there. dropout:
    the share of each hidden layer's outputs that is left out while training.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        *,
        hidden_units: list[int],
        activation: str | None,
        output_activation: str | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if any(units < 1 for units in hidden_units):
            raise ValueError(f"hidden_units {hidden_units} must all be >= 1")
        layers: list[nn.Module] = [nn.Flatten()]
        units = math.prod(input_shape)
        for width in hidden_units:
            layers += [nn.Linear(units, width), *activation_layers(activation)]
            if dropout:
                layers.append(nn.Dropout(dropout))
            units = width
        layers += [nn.Linear(units, output_size), *activation_layers(output_activation)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)
