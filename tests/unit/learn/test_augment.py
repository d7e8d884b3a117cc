"""Augmentation: seeded, sample by sample, apart from the stream of the course's batches; MixUp with soft targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from learn.errors import DataError
from learn.training.augment import Augmentation, augmentations, value_span
from learn.training.build import BuildError, build_loss, build_model, build_optimizer
from learn.training.loop import FitOptions, fit
from learn.training.splits import Split
from learn.training.state import State
from tests.unit.learn.test_loop import TEST, TRAIN

IMAGES = torch.arange(8 * 3 * 16 * 16).reshape(8, 3, 16, 16).remainder(251).to(torch.uint8)
TARGETS = torch.arange(8) % 3


def augmentation(*steps: tuple[str, dict[str, Any]], scale: float = 255.0) -> Augmentation:
    return Augmentation(steps, 3, scale)


def test_each_sample_gets_what_torchvision_s_transform_would_give_it() -> None:
    found, _ = augmentation(("TrivialAugmentWide", {"num_magnitude_bins": 31}))(IMAGES, TARGETS, 5)
    torch.manual_seed(5)
    transform = v2.TrivialAugmentWide(num_magnitude_bins=31)
    assert torch.equal(found, torch.stack([transform(image) for image in IMAGES]).div(255))
    assert not torch.equal(found, IMAGES.div(255))


def test_a_seed_gives_the_same_again_and_leaves_the_generator_alone() -> None:
    augment = augmentation(
        ("RandomResizedCrop", {"size": 16}), ("ColorJitter", {"brightness": 0.5}), ("RandomErasing", {})
    )
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second, other = (augment(IMAGES, TARGETS, seed)[0] for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, on which a transform draws")
def test_what_a_transform_draws_on_the_device_comes_from_the_seed_too() -> None:
    augment = augmentation(("GaussianNoise", {}))
    images, targets = IMAGES.cuda(), TARGETS.cuda()
    before = torch.cuda.get_rng_state()
    first, second, other = (augment(images, targets, seed)[0] for seed in (7, 7, 8))
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_mixup_gives_soft_targets_and_trains() -> None:
    inputs, targets = augmentation(("MixUp", {"alpha": 0.5}))(IMAGES, TARGETS, 3)
    assert inputs.shape == IMAGES.shape
    assert targets.shape == (8, 3)
    assert torch.allclose(targets.sum(1), torch.ones(8))
    losses = trained(augmentation(("MixUp", {"alpha": 0.5})))
    assert losses[-1] < losses[0]


def test_images_of_another_scale_are_augmented_as_if_white_were_255() -> None:
    digits = (IMAGES % 17).to(torch.uint8)
    found, _ = augmentation(("RandomInvert", {"p": 1.0}), scale=16.0)(digits, TARGETS, 0)
    assert torch.allclose(found, 1 - digits / 16, atol=1 / 255)


def test_floats_are_transformed_within_their_span() -> None:
    def part(images: torch.Tensor, scale: float = 1.0) -> Split:
        return Split("train", images, TARGETS, scale, torch.contiguous_format)

    def augmented(images: torch.Tensor, *steps: tuple[str, dict[str, Any]]) -> torch.Tensor:
        return Augmentation(steps, 3, 1.0, value_span(part(images)))(images, TARGETS, 5)[0]

    ordinary = IMAGES / 255
    torch.manual_seed(5)
    jitter = v2.ColorJitter(brightness=0.5)
    assert torch.equal(
        augmented(ordinary, ("ColorJitter", {"brightness": 0.5})), torch.stack([jitter(image) for image in ordinary])
    )
    signed = 3 * ordinary - 1
    low, high = signed.min(), signed.max()
    assert torch.allclose(augmented(signed, ("RandomHorizontalFlip", {"p": 1.0})), signed.flip(3), atol=1e-6)
    assert torch.allclose(augmented(signed, ("RandomInvert", {"p": 1.0})), low + high - signed, atol=1e-6)
    mixed = augmented(signed, ("MixUp", {"alpha": 0.5}))
    assert mixed.dtype == torch.float32
    assert mixed.min() < -0.5
    assert value_span(part(IMAGES, 255.0)) == (0, 255)
    with pytest.raises(DataError, match=r"hold values from 0 to 250, and their scale, the value of white, is 1: "):
        value_span(part(IMAGES, 1.0))


def trained(augment: Augmentation | None) -> list[float]:
    torch.manual_seed(42)
    model = build_model("mlp", {"hidden_units": [8], "activation": "ReLU"}, (1, 4, 4), 3)
    state = State(model, build_optimizer("SGD", {"lr": 0.1}, model))
    criterion = build_loss("CrossEntropyLoss", {}, ("a", "b", "c"))
    torch.manual_seed(42)
    return [
        epoch.metrics["train/loss"]
        for epoch in fit(state, TRAIN, TEST, criterion, FitOptions(epochs=6, batch_size=32, augment=augment))
    ]


def test_a_training_repeats_to_the_bit_and_sees_the_same_batches_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    batches = Split.batches

    def noted(self: Split, order: Iterable[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if self is TRAIN:
            order = list(order)
            seen.extend(index.tolist() for index in order)
        return batches(self, order)

    monkeypatch.setattr(Split, "batches", noted)
    flip = augmentation(("RandomHorizontalFlip", {}))
    first = trained(flip)
    with_flip, seen[:] = list(seen), []
    assert trained(augmentation(("RandomHorizontalFlip", {}))) == first
    seen.clear()
    assert trained(None) != first
    assert seen == with_flip


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("TrivialAugment", {}, "is TrivialAugment; it must be one of"),
        ("RandomHorizontalFlip", {"q": 1}, "is not an argument of RandomHorizontalFlip; allowed: p"),
        ("RandomResizedCrop", {}, "is missing; RandomResizedCrop needs size"),
        ("RandomHorizontalFlip", {"p": 2}, "refuses"),
        ("ToDtype", {}, "is ToDtype; it must be one of"),
    ],
)
def test_a_wrong_one_is_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        augmentation((name, arguments))


def test_those_that_the_readme_names_are_there() -> None:
    for name in (
        "RandomHorizontalFlip", "RandomCrop", "RandomResizedCrop", "RandomRotation", "ColorJitter",
        "TrivialAugmentWide", "RandAugment", "MixUp", "CutMix", "RandomErasing",
    ):  # fmt: skip
        assert name in augmentations()
