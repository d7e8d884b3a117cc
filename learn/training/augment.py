"""Augments batches of training images with random transforms of torchvision.transforms.v2, chosen by name.

    steps = [("RandomHorizontalFlip", {}), ("TrivialAugmentWide", {})]
    augment = Augmentation(steps, classes=3, scale=255.0, span=value_span(part))
    inputs, targets = augment(inputs, targets, seed)

The transforms run on the training device, sample by sample (MixUp and CutMix on the whole batch). Their random numbers
come from a seed of the batch, not from the stream that shuffles and drops out: a run with augmentation sees the same
batches as one without it, and gives the same bits again.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from learn.errors import DataError
from learn.training.build import BuildError, check_arguments

if TYPE_CHECKING:
    from learn.training.splits import Split


def augmentations() -> dict[str, Any]:
    """Returns the classes of torchvision.transforms.v2 that params.yaml can name."""
    from torchvision.transforms import v2

    return {
        name: cls
        for name, cls in vars(v2).items()
        if inspect.isclass(cls) and issubclass(cls, v2.Transform) and not inspect.isabstract(cls) and name not in _NOT
    }


# Not for params.yaml: these take other transforms or a function, or return something other than an image.
_NOT = ("Transform", "Compose", "Lambda", "RandomApply", "RandomChoice", "RandomOrder", "ToDtype", "Identity")
MIXES = ("MixUp", "CutMix")  # transforms of the whole batch: they mix two samples and their classes


def value_span(part: Split) -> tuple[float, float]:
    """Returns the values of a split's stored inputs that transforms take for black and white.

    For integers they are 0 and the scale. For floats they are 0 and 1, or the smallest and the largest value if one of
    them is not in [0, 1]. Reads the split once, unless it holds ordinary images (uint8 with a scale of at least 255).

    Raises:
        DataError: The inputs are integers, and one is negative or above the scale.
    """
    if part.inputs.dtype == torch.uint8 and part.scale >= 255:
        return 0.0, part.scale
    low, high = math.inf, -math.inf
    for inputs, _ in part.batches(slice(start, start + AT_ONCE) for start in range(0, len(part), AT_ONCE)):
        low, high = min(low, inputs.min().item()), max(high, inputs.max().item())
    if part.inputs.is_floating_point():
        return (0.0, 1.0) if (low >= 0 and high <= 1) or low == high else (low, high)
    if low < 0 or high > part.scale:
        raise DataError(
            f"augmentation: the images hold values from {low} to {high}, and their scale, the value of white, is "
            f"{part.scale:g}: the dataset's class must give a scale of {high} or more, and no negative values"
        )
    return 0.0, part.scale


AT_ONCE = 1024  # number of samples read at once to find a split's smallest and largest value


class Augmentation:
    """Applies random transforms, one after the other, to batches of stored images.

    Args:
        transforms: The name of each transform and its arguments.
        classes: Number of classes, for MixUp and CutMix.
        scale: The value of white in stored integers, 255 for ordinary images.
        span: The values of black and white in stored floats; torchvision's transforms expect floats in [0, 1].

    Raises:
        BuildError: A name is unknown, or a transform refuses its arguments.
    """

    def __init__(
        self,
        transforms: Iterable[tuple[str, dict[str, Any]]],
        classes: int,
        scale: float,
        span: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self._scale = scale
        self._low, self._range = span[0], span[1] - span[0]
        self._steps = [(name in MIXES, _build(name, arguments, classes)) for name, arguments in transforms]

    def __call__(self, inputs: torch.Tensor, targets: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Transforms a batch.

        Args:
            inputs: Stored inputs (B, C, H, W).
            targets: (B,) classes.
            seed: Seed of everything random in this batch.

        Returns:
            Inputs (B, C, H, W) as a model takes them (integers become float32 in [0, 1], floats stay within their
            span), and targets (B,), or probabilities (B, classes) after MixUp or CutMix.
        """
        if inputs.is_floating_point():
            mapped = (self._low, self._range) != (0.0, 1.0)
            inputs = inputs.sub(self._low).div(self._range) if mapped else inputs
            inputs, targets = self._transformed(inputs, targets, seed)
            return (inputs.mul(self._range).add(self._low) if mapped else inputs), targets
        if inputs.dtype != torch.uint8 or self._scale != 255.0:  # for v2's transforms of uint8, white is 255
            inputs = inputs.div(self._scale).mul(255).round().to(torch.uint8)
        inputs, targets = self._transformed(inputs, targets, seed)
        return (inputs if inputs.is_floating_point() else inputs.div(255)), targets

    def _transformed(self, inputs: torch.Tensor, targets: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        with _seeded(seed, inputs.device):
            for whole_batch, transform in self._steps:
                if whole_batch:
                    if not inputs.is_floating_point():
                        inputs = inputs.div(255)
                    inputs, targets = transform(inputs, targets)
                else:
                    inputs = torch.stack([transform(image) for image in inputs])
        return inputs, targets


def _build(name: str, arguments: dict[str, Any], classes: int) -> Any:
    check_arguments(augmentations(), name, arguments, 0)
    given = {"num_classes": classes} if name in MIXES else {}
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):
            return augmentations()[name](**arguments, **given)
    except Exception as error:  # each class raises its own errors
        raise BuildError("", f"{name} refuses {arguments or 'this'}: {error}") from error


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds the generators from which transforms draw, and restores their states afterwards.

    Most of v2's transforms draw from the CPU's generator, some (such as GaussianNoise) from that of the images' device.
    """
    generators: list[Any] = [torch.random]
    if device.type != "cpu":
        generators.append(torch.get_device_module(device))  # its functions act on the current device
    with torch.accelerator.device_index(device.index):
        before = [generator.get_rng_state() for generator in generators]
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every device
        for generator in generators[1:]:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            for generator, state in zip(generators, before, strict=True):
                generator.set_rng_state(state)
