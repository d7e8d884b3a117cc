"""Any classifier of torchvision, pretrained or not, with a new head (learnpytorch.io, chapters 6 to 8).

model: {name: torchvision, architecture: efficientnet_b0, weights: IMAGENET1K_V1, dropout: 0.2}
"""

from __future__ import annotations

from typing import Any

from torch import nn

from learn.errors import ArgumentError, did_you_mean
from learn.models.blocks.backbone import Backbone, Freeze, WeightsName, check_images
from learn.models.blocks.weights import Weights, named_in_url, parse_weights


class Torchvision(Backbone):
    """Maps images (N, 3, H, W) in [0, 1] to logits (N, output_size).

    The new head is one linear layer, behind dropout, in place of the architecture's last linear layer.

    Args:
        input_shape: (3, H, W).
        output_size: Number of logits.
        architecture: A classifier's name in torchvision.models, such as efficientnet_b0 or vit_b_16.
        weights: A name of torchvision's weights for it, such as IMAGENET1K_V1; a file of your own, as
            `{file: NAME.safetensors, sha256: ..., source: PATH}`; or None for random weights.
        dropout: Fraction of the features that is dropped in training, before the linear layer.
        freeze: `backbone`, `none`, or the number of first blocks that are frozen.
        freeze_statistics: Whether frozen blocks stay in evaluation mode; False is the course's way.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        *,
        architecture: str,
        weights: WeightsName,
        dropout: float = 0.0,
        freeze: Freeze = "backbone",
        freeze_statistics: bool = True,
        unfreeze_after: int | None = None,
    ) -> None:
        from torchvision import models

        check_images(input_shape)
        known = models.list_models(module=models)
        if architecture not in known:
            raise ArgumentError(
                "architecture",
                f"is {architecture}, which is no classifier of torchvision{did_you_mean(architecture, known)}",
            )
        published = models.get_model_weights(architecture)
        chosen = _weights(weights, published)
        of_published = published[weights] if isinstance(weights, str) else next(iter(published))
        size = of_published.meta["min_size"]
        if architecture.startswith("vit_") and input_shape[1:] != size:  # its positions are for this size alone
            raise ValueError(f"{architecture} takes images of {size}; the inputs are {input_shape[1:]}")
        backbone = models.get_model(architecture, weights=None)
        replaced, units = _without_head(architecture, backbone)
        transforms = of_published.transforms()
        super().__init__(
            backbone,
            units,
            output_size,
            normalization=(transforms.mean, transforms.std),
            replaced=replaced,
            weights=chosen,
            dropout=dropout,
            freeze=freeze,
            freeze_statistics=freeze_statistics,
            unfreeze_after=unfreeze_after,
        )


def _weights(given: WeightsName, published: Any) -> Weights | None:
    if not isinstance(given, str):
        return parse_weights(given) if given is not None else None
    names = [each.name for each in published]
    if given not in names:
        raise ArgumentError("weights", f"is {given}; it must be one of {', '.join(names)}, a file of your own, or null")
    return named_in_url(published[given].url, given)


def _without_head(architecture: str, backbone: nn.Module) -> tuple[tuple[str, ...], int]:
    """Replaces the last linear layer, and dropout before it, by nothing.

    Returns:
        The beginnings of the names of the weights of that layer, and its number of inputs.
    """
    name, last = list(backbone.named_children())[-1]
    layers = dict(last.named_children()) if isinstance(last, nn.Sequential) else {}
    found = list(layers.values())[-1] if layers else last
    if not isinstance(found, nn.Linear):
        message = f"is {architecture}, which does not end with a linear layer, so it gets no head"
        raise ArgumentError("architecture", message)
    if not layers:
        setattr(backbone, name, nn.Identity())
        return (f"{name}.",), found.in_features
    assert isinstance(last, nn.Sequential)
    position = list(layers)[-1]
    del last[-1]
    if len(last) and isinstance(last[-1], nn.Dropout):
        del last[-1]
    return (f"{name}.{position}.",), found.in_features
