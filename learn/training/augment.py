"""Augmentation: random transforms of torchvision.transforms.v2, by name, on batches of training images.

    steps = [("RandomHorizontalFlip", {}), ("TrivialAugmentWide", {})]
    augment = Augmentation(steps, classes=3, scale=255.0, span=value_span(part))
    inputs, targets = augment(inputs, targets, seed)

They run on the training device, sample by sample (MixUp and CutMix on the whole batch). What they draw comes from a
seed of the batch, not from the stream that shuffles and drops out: a run with augmentation sees the same batches as one
without, and repeats to the bit.
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


def value_span(part: Split) -> tuple[float, float]:
    """The values of a part's stored inputs that transforms shall take for black and white.

    For integers 0 and the scale; for floats 0 and 1, or the smallest and the largest if one lies outside. Raises
    DataError for integers that the scale does not cover. Reads the part once, unless it holds ordinary images.
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


AT_ONCE = 1024  # samples, while a part's smallest and largest value are looked for


class Augmentation:
    """transforms: (name, arguments), one after the other. scale: of stored integers, 255 for ordinary images.

    span: the values of stored floats that are black and white; transforms of torchvision take floats in [0, 1].
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
        """Stored inputs (B, C, H, W) → (B, C, H, W) as a model takes them; targets (B,), or (B, classes) after a mix.

        Integers become float32 in [0, 1]; floats stay within their span.
        """
        if inputs.is_floating_point():
            mapped = (self._low, self._range) != (0.0, 1.0)
            inputs = inputs.sub(self._low).div(self._range) if mapped else inputs
            inputs, targets = self._transformed(inputs, targets, seed)
            return (inputs.mul(self._range).add(self._low) if mapped else inputs), targets
        if inputs.dtype != torch.uint8 or self._scale != 255.0:  # v2's transforms of uint8 take white to be 255
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
    except Exception as error:  # each class has its own
        raise BuildError("", f"{name} refuses {arguments or 'this'}: {error}") from error


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The generators from which transforms draw start at the seed, and afterwards go on where they were.

    Most of v2's transforms draw from the CPU's, some (such as GaussianNoise) from that of the images' device.
    """
    generators: list[Any] = [torch.random]
    if device.type != "cpu":
        generators.append(torch.get_device_module(device))  # its functions are for the current device
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
