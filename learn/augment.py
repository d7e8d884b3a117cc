"""Augmentation: random transforms of torchvision.transforms.v2, by name, on batches of training images.

    augment = Augmentation([("RandomHorizontalFlip", {}), ("TrivialAugmentWide", {})], classes=3, scale=255.0)
    inputs, targets = augment(inputs, targets, seed)

They run on the training device, sample by sample (MixUp and CutMix on the whole batch). What they draw comes from a
seed of the batch, not from the stream that shuffles and drops out: a run with augmentation sees the same batches as one
without, and repeats to the bit.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from learn.build import BuildError, check_arguments


def augmentations() -> dict[str, Any]:
    """The classes of torchvision.transforms.v2 that params.yaml can name."""
    from torchvision.transforms import v2

    return {
        name: cls
        for name, cls in vars(v2).items()
        if inspect.isclass(cls) and issubclass(cls, v2.Transform) and not inspect.isabstract(cls) and name not in _NOT
    }


# They take other transforms or a function, or make something other than an image of the same kind.
_NOT = ("Transform", "Compose", "Lambda", "RandomApply", "RandomChoice", "RandomOrder", "ToDtype", "Identity")
MIXES = ("MixUp", "CutMix")  # of two samples and their classes: on the whole batch


class Augmentation:
    """transforms: (name, arguments), one after the other. scale: of the stored inputs, 255 for ordinary images."""

    def __init__(self, transforms: Iterable[tuple[str, dict[str, Any]]], classes: int, scale: float) -> None:
        self._scale = scale
        self._steps = [(name in MIXES, _build(name, arguments, classes)) for name, arguments in transforms]

    def __call__(self, inputs: torch.Tensor, targets: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """inputs (B, C, H, W) uint8 → (B, C, H, W) float32 in [0, 1]; targets (B,), or (B, classes) after a mix."""
        if self._scale != 255.0:  # v2's transforms of uint8 take white to be 255
            inputs = inputs.div(self._scale).mul(255).round().to(torch.uint8)
        with _seeded(seed):
            for whole_batch, transform in self._steps:
                if whole_batch:
                    if not inputs.is_floating_point():
                        inputs = inputs.div(255)
                    inputs, targets = transform(inputs, targets)
                else:
                    inputs = torch.stack([transform(image) for image in inputs])
        return (inputs if inputs.is_floating_point() else inputs.div(255)), targets


def _build(name: str, arguments: dict[str, Any], classes: int) -> Any:
    check_arguments(augmentations(), name, arguments, 0)
    given = {"num_classes": classes} if name in MIXES else {}
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):
            return augmentations()[name](**arguments, **given)
    except Exception as error:  # each class has its own
        raise BuildError("", f"{name} refuses {arguments or 'this'}: {error}") from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The CPU's generator, from which v2 draws, starts at the seed, and afterwards goes on where it was."""
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
