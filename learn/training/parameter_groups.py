"""Divides a model's parameters into an optimizer's groups: parts with arguments of their own, and weight decay.

    parameter_groups(model, {"backbone": {"lr": 1e-4}}, decay=None)   # the backbone learns more slowly than the head

A part is a module of the model by its name in the state_dict, such as `backbone` or `backbone.blocks.0`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

Groups = Mapping[str, Mapping[str, Any]]  # part of the model → arguments of the optimizer for it


def parameter_groups(model: nn.Module, groups: Groups, decay: float | None) -> list[dict[str, Any]]:
    """Returns the groups of an optimizer: all parameters that are in no part come first, then each part.

    Args:
        model: The model, whose parameters keep their order within a group.
        groups: The parts, which have no parameter in common, and their arguments.
        decay: The weight decay of weight matrices, if everything else is to have none; None if all have the same.

    Raises:
        KeyError: A part is not in the model, or a parameter of it is in another part, too; its name is the argument.
    """
    rest, found = dict(model.named_parameters()), []
    for part, arguments in groups.items():
        own = [name for name in rest if f"{name}.".startswith(f"{part}.")]
        if not own:
            raise KeyError(part)
        found.append({"params": {name: rest.pop(name) for name in own}, **arguments})
    found = [{"params": rest}, *found]
    if decay is not None:
        found = [half for group in found for half in _by_decay(group, group.get("weight_decay", decay))]
    return [group | {"params": list(group["params"].values())} for group in found if group["params"]]


def _by_decay(group: dict[str, Any], decay: float) -> list[dict[str, Any]]:
    """Divides a group into weight matrices with weight decay and everything else without.

    A weight matrix is a parameter whose name ends in `weight` and that has two dimensions or more, as linear layers and
    convolutions have it. Everything else are biases, the parameters of norms, class tokens, position embeddings.
    """
    decayed = {name: each for name, each in group["params"].items() if name.endswith("weight") and each.ndim >= 2}
    rest = {name: each for name, each in group["params"].items() if name not in decayed}
    return [group | {"params": decayed, "weight_decay": decay}, group | {"params": rest, "weight_decay": 0.0}]


def weight_decay_of(optimizer: type[Optimizer], arguments: dict[str, Any]) -> float:
    """Returns the weight decay in an optimizer's arguments, or its default; 0 if the optimizer takes none."""
    parameter = inspect.signature(optimizer).parameters.get("weight_decay")
    return arguments.get("weight_decay", parameter.default) if parameter else 0.0
