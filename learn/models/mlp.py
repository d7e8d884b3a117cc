"""A multilayer perceptron: linear layers one after another (learnpytorch.io, chapters 1 to 3).

`hidden_units: []` gives a single `nn.Linear`; `activation: null` keeps a model of any depth linear.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from learn.models.blocks.activation import activation_layers


class MLP(nn.Module):
    """Maps inputs (N, *input_shape), flattened, to logits (N, output_size).

    Args:
        input_shape: Shape of one input.
        output_size: Number of logits.
        hidden_units: Number of units of each hidden layer.
        activation: Activation class of torch.nn (ReLU, Tanh, ...) after each hidden layer; None for no activation.
        output_activation: The same after the last layer; the course's Fashion-MNIST V1 has a ReLU there.
        dropout: Fraction of each hidden layer's outputs that is dropped in training.
        output_mean: Is added to the outputs: where targets are numbers, about their mean.
        output_scale: Multiplies the outputs before that: about the targets' standard deviation, so that large targets
            need no large weights.
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
        output_mean: float = 0.0,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if output_scale <= 0:
            raise ValueError(f"output_scale is {output_scale}; it must be > 0")
        self.output_mean, self.output_scale = output_mean, output_scale
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
        """Computes logits (N, output_size) from inputs (N, *input_shape)."""
        outputs = self.layers(x)
        if (self.output_mean, self.output_scale) == (0.0, 1.0):
            return outputs
        return self.output_mean + self.output_scale * outputs
