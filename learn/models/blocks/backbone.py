"""A pretrained backbone with a new head: what the models `torchvision` and `timm` share.

The backbone turns images into features (N, units), the head turns features into logits. A frozen block gets no
gradients, and stays in evaluation mode, so that its BatchNorm statistics stay too.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from learn.errors import ArgumentError, DataError
from learn.models.blocks.weights import Weights, read_state_dict

Freeze = Literal["backbone", "none"] | int
WeightsName = dict[str, str] | str | None  # the file of weights, or a library's name for one


class Backbone(nn.Module):
    """Maps images (N, 3, H, W) in [0, 1] to logits (N, output_size); subclasses build the backbone.

    Attributes:
        weights: The file that `load_pretrained` needs; None to train from random weights.
        has_constant_features: Whether an image has the same features in each epoch, as long as the whole backbone is
            frozen.

    Args:
        backbone: Maps normalised images to features (N, units).
        units: Number of features.
        output_size: Number of logits.
        normalization: Mean and standard deviation of each channel with which the backbone was trained.
        replaced: Beginnings of the names of what the head replaces in files of weights, such as `classifier.1.`.
        weights: The file of weights, if any.
        dropout: Fraction of the features that is dropped in training, before the head's linear layer.
        freeze: `backbone` (all of it), `none`, or the number of its first blocks (see `blocks_of`).
        freeze_statistics: Whether frozen blocks stay in evaluation mode. False lets the statistics of their BatchNorm
            go on, and their dropout drop, as in the course.
        unfreeze_after: Number of epochs after which everything is trained; None: what is frozen stays so.
    """

    mean: torch.Tensor  # (1, 3, 1, 1)
    std: torch.Tensor  # (1, 3, 1, 1)

    def __init__(
        self,
        backbone: nn.Module,
        units: int,
        output_size: int,
        *,
        normalization: tuple[Collection[float], Collection[float]],
        replaced: tuple[str, ...],
        weights: Weights | None,
        dropout: float,
        freeze: Freeze,
        freeze_statistics: bool,
        unfreeze_after: int | None,
    ) -> None:
        super().__init__()
        if unfreeze_after is not None and (unfreeze_after < 1 or freeze in ("none", 0)):
            raise ArgumentError(
                "unfreeze_after",
                f"is {unfreeze_after}, and freeze is {freeze}; it must be >= 1, or null if nothing is frozen",
            )
        self._unfreeze_after = unfreeze_after
        self.weights = weights
        self._replaced = replaced
        self._freezes_statistics = freeze_statistics
        self.backbone = backbone
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(units, output_size))
        for name, values in zip(("mean", "std"), normalization, strict=True):
            self.register_buffer(name, torch.tensor(tuple(values)).reshape(1, 3, 1, 1), persistent=False)
        self._frozen = self._freeze(freeze)
        self.has_constant_features = freeze == "backbone" and freeze_statistics
        self.train()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits (N, output_size) from images (N, 3, H, W) in [0, 1]."""
        return self.head(self.features(x))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Computes features (N, units) from images (N, 3, H, W) in [0, 1]."""
        return self.backbone((x - self.mean) / self.std)

    def train(self, mode: bool = True) -> Backbone:
        """Sets the mode of all blocks except the frozen ones, which stay in evaluation mode."""
        super().train(mode)
        if self._freezes_statistics:
            for block in self._frozen:
                block.eval()
        return self

    def begin_epoch(self, done: int) -> None:
        """Unfreezes everything if enough epochs are done. Idempotent.

        Args:
            done: Number of epochs that are done.
        """
        if self._frozen and self._unfreeze_after is not None and done >= self._unfreeze_after:
            self.backbone.requires_grad_(True)
            self._frozen, self.has_constant_features = [], False

    def load_pretrained(self, file: Path) -> None:
        """Loads the backbone's weights; the head keeps its own.

        Raises:
            DataError: The file is damaged, or its weights are not this backbone's.
        """
        state_dict = {k: v for k, v in read_state_dict(file).items() if not k.startswith(self._replaced)}
        own = self.backbone.state_dict()
        missing = [k for k in own if k not in state_dict and not k.endswith("num_batches_tracked")]
        unknown = [k for k in state_dict if k not in own]
        other = [k for k, v in state_dict.items() if k in own and v.shape != own[k].shape]
        for what, names in (("has no", missing), ("has an unknown", unknown), ("has another shape of", other)):
            if names:
                more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
                raise DataError(f"{file} does not fit model.architecture: it {what} {names[0]}{more}")
        self.backbone.load_state_dict(state_dict, strict=False)

    def _freeze(self, freeze: Freeze) -> list[nn.Module]:
        """Freezes parameters, and returns the modules that stay in evaluation mode."""
        if freeze == "none" or freeze == 0:
            return []
        if not self.weights:
            raise ArgumentError(
                "freeze", f"is {freeze}, but weights is null: what is random would stay so; set it to none"
            )
        if freeze == "backbone":
            self.backbone.requires_grad_(False)
            return [self.backbone]
        blocks = blocks_of(self.backbone)
        if isinstance(freeze, str) or not 0 < freeze <= len(blocks):
            raise ArgumentError(
                "freeze", f"is {freeze}; it must be backbone, none, or a number of blocks from 0 to {len(blocks)}"
            )
        trained = {parameter for block in blocks[freeze:] for parameter in block.parameters()}
        for parameter in self.backbone.parameters():
            parameter.requires_grad_(parameter in trained)
        return blocks[:freeze]


def blocks_of(backbone: nn.Module) -> list[nn.Module]:
    """Returns a backbone's blocks with parameters, in the order in which they compute.

    They are its children; a Sequential or ModuleList is replaced by its own children, and so is a child that holds
    more than half of the parameters, such as a transformer's encoder.
    """
    found: list[nn.Module] = []
    half = _size(backbone) / 2
    for child in backbone.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            found += child.children()
        else:
            found += blocks_of(child) if _size(child) > half and list(child.children()) else [child]
    return [block for block in found if _size(block)]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def check_images(input_shape: tuple[int, ...]) -> None:
    """Raises ValueError if inputs are not images with three channels."""
    if len(input_shape) != 3 or input_shape[0] != 3:
        raise ValueError(f"it takes colour images (3, height, width); the inputs are {input_shape}")
