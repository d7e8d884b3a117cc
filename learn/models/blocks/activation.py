"""Activations by their name in params.yaml."""

from __future__ import annotations

from torch import nn


def activation_layers(name: str | None) -> list[nn.Module]:
    """Returns a list with one activation layer; an empty list for None.

    Args:
        name: An activation class of torch.nn, such as ReLU or Tanh.

    Raises:
        ValueError: The name is not that of an activation.
    """
    if name is None:
        return []
    cls = getattr(nn, name, None)
    if not (isinstance(cls, type) and cls.__module__ == "torch.nn.modules.activation"):
        raise ValueError(f"activation {name!r} is no activation of torch.nn; ReLU, GELU, Tanh, ... or null")
    return [cls()]
