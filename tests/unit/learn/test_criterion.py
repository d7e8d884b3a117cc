from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from learn.training.augment import Augmentation
from learn.training.build import BuildError, build_loss
from learn.training.evaluate import evaluate_split
from learn.training.loop import FitOptions, fit
from learn.training.splits import Split
from learn.training.state import State


def test_a_binary_loss_has_one_logit_for_two_classes() -> None:
    criterion = build_loss("BCEWithLogitsLoss", {}, ("no", "yes"))
    assert criterion.output_size == 1
    logits, targets = torch.tensor([[-1.0], [2.0]]), torch.tensor([0, 1])
    assert criterion.predict(logits).tolist() == [0, 1]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits.squeeze(), targets.float())
    assert criterion(logits, targets) == expected


def test_probabilities_are_cut_at_one_half() -> None:
    criterion = build_loss("BCELoss", {}, ("no", "yes"))
    assert criterion.predict(torch.tensor([[0.4], [0.6]])).tolist() == [0, 1]


def test_other_losses_have_one_logit_a_class_and_regression_has_one_number() -> None:
    assert build_loss("CrossEntropyLoss", {"label_smoothing": 0.1}, ("a", "b")).output_size == 2
    regression = build_loss("L1Loss", {}, ())
    assert regression.output_size == 1
    assert regression.predict(torch.tensor([[1.5]])).tolist() == [[1.5]]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("CrossEntropyLoss", {}),
        ("CrossEntropyLoss", {"weight": [1, 3, 0.2]}),
        ("CrossEntropyLoss", {"weight": [1, 3, 0.2], "label_smoothing": 0.1}),
        ("CrossEntropyLoss", {"weight": [1, 3, 0.2], "ignore_index": 1}),
        ("CrossEntropyLoss", {"ignore_index": 1, "label_smoothing": 0.1}),
        ("NLLLoss", {"weight": [1, 3, 0.2]}),
        ("MultiMarginLoss", {"weight": [1, 3, 0.2]}),
        ("BCEWithLogitsLoss", {"pos_weight": [3]}),
        ("BCEWithLogitsLoss", {"pos_weight": 3, "weight": [0.5]}),
        ("SmoothL1Loss", {"beta": 0.1}),
    ],
)
def test_the_mean_over_an_epoch_is_what_torch_gives_for_all_samples_at_once(
    name: str, arguments: dict[str, Any]
) -> None:
    """Batches of 32, 32 and 6 samples."""
    classes = {"BCEWithLogitsLoss": ("no", "yes"), "SmoothL1Loss": ()}.get(name, ("a", "b", "c"))
    criterion = build_loss(name, arguments, classes)
    torch.manual_seed(1)
    inputs = torch.rand(70, 4)
    targets = torch.randint(len(classes), (70,)) if classes else torch.rand(70, 1)
    part = Split("test", inputs, targets, 1.0, torch.contiguous_format)
    model = nn.Linear(4, criterion.output_size)
    metrics, logits = evaluate_split(model, part, criterion, 32)
    tensors = {key: torch.tensor(v).float() if "weight" in key else v for key, v in arguments.items()}
    loss = getattr(nn, name)(**tensors)
    whole = loss(logits.squeeze(1), targets.float()) if len(classes) == 2 else loss(logits, targets)
    assert metrics["test/loss"] == pytest.approx(whole.item(), rel=1e-5)


def test_mixed_classes_count_one_a_sample_whatever_the_weights() -> None:
    criterion = build_loss("CrossEntropyLoss", {"weight": [1, 3, 0.2]}, ("a", "b", "c"))
    mixed = Augmentation([("MixUp", {"alpha": 0.5})], 3, 255.0)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Noted(Augmentation):
        def __call__(self, inputs: torch.Tensor, targets: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append(mixed(inputs, targets, seed))
            return seen[-1]

    torch.manual_seed(1)
    part = Split(
        "train", torch.randint(256, (70, 1, 4, 4)).byte(), torch.randint(3, (70,)), 255.0, torch.preserve_format
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    state = State(model, torch.optim.SGD(model.parameters(), lr=1e-12))
    held_out = replace(part, name="test")
    (epoch,) = fit(state, part, held_out, criterion, FitOptions(epochs=1, batch_size=32, augment=Noted([], 3, 255.0)))
    inputs, targets = (torch.cat(tensors) for tensors in zip(*seen, strict=True))
    assert epoch.metrics["train/loss"] == pytest.approx(criterion(model(inputs), targets).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("BCEWithLogitsLoss", {"pos_weight": [1, 3]}, "pos_weight is [1, 3]; a binary loss has one logit"),
        ("CrossEntropyLoss", {"weight": ["heavy", 1]}, "weight is ['heavy', 1]; it must be a list of numbers"),
    ],
)
def test_a_wrong_weight_is_named(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BuildError) as caught:
        build_loss(name, arguments, ("a", "b"))
    assert f"{caught.value.key} {caught.value}".startswith(message)


def test_an_argument_that_torch_does_not_know_is_refused() -> None:
    with pytest.raises(BuildError, match="is not an argument of CrossEntropyLoss; allowed: weight"):
        build_loss("CrossEntropyLoss", {"smoothing": 0.1}, ("a", "b"))
