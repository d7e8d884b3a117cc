"""Divides a model's parameters into those that weight decay pulls towards zero and those that it leaves alone."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from torch.optim import Optimizer


def without_decay(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Returns the two groups of an optimizer: weight matrices with weight decay, and everything else without.

    A weight matrix is a parameter whose name ends in `weight` and that has two dimensions or more, as linear layers and
    convolutions have it. Everything else are biases, the parameters of norms, class tokens, position embeddings.

    Args:
        model: The model, whose parameters keep their order within a group.
        decay: The weight decay of the first group.
    """
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (decayed if name.endswith("weight") and parameter.ndim >= 2 else rest).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def weight_decay_of(optimizer: type[Optimizer], arguments: dict[str, Any]) -> float:
    """Returns the weight decay in an optimizer's arguments, or its default; 0 if the optimizer takes none."""
    parameter = inspect.signature(optimizer).parameters.get("weight_decay")
    return arguments.get("weight_decay", parameter.default) if parameter else 0.0
