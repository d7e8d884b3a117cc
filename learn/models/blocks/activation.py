"""Activations by their name in params.yaml."""

from __future__ import annotations

from torch import nn


def activation_layers(name: str | None) -> list[nn.Module]:
    """One layer, or none for None. name: a class of torch.nn (ReLU, Tanh, ...); ValueError for any other."""
    if name is None:
        return []
    cls = getattr(nn, name, None)
    if not (isinstance(cls, type) and cls.__module__ == "torch.nn.modules.activation"):
        raise ValueError(f"activation {name!r} is no activation of torch.nn; ReLU, GELU, Tanh, ... or null")
    return [cls()]
