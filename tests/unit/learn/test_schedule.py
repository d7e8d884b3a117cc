"""Training as the paper on the Vision Transformer does it: warmup, cosine decay, weight decay by group."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from learn.training.build import BuildError, build_loss, build_model, build_optimizer, build_scheduler
from learn.training.defaults import Interval
from learn.training.loop import FitOptions, fit
from learn.training.splits import Split
from learn.training.state import State

WARMUP = {"name": "LinearLR", "start_factor": 0.25, "total_iters": 3}
COSINE = {"name": "CosineAnnealingLR", "T_max": 9}
WARMUP_THEN_COSINE = {"schedulers": [WARMUP, COSINE], "milestones": [3]}
VIT = {"patch_size": 2, "embedding_size": 8, "heads": 2, "layers": 1, "mlp_size": 16}
EPOCHS = 4
TRAIN = Split("train", torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2] * 2), 1.0, torch.contiguous_format)  # 3 batches


class Noted(torch.optim.SGD):
    """Notes the learning rate of each step."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.rates: list[float] = []

    def step(self, closure: Any = None) -> Any:
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


def new_state() -> tuple[State, Noted]:
    torch.manual_seed(42)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    optimizer = Noted(model.parameters(), lr=0.1)
    return State(model, optimizer, build_scheduler("SequentialLR", WARMUP_THEN_COSINE, optimizer)), optimizer


def train(state: State, epochs: int, interval: Interval) -> None:
    criterion = build_loss("CrossEntropyLoss", {}, ("a", "b", "c"))
    options = FitOptions(epochs, batch_size=2, clip_grad_norm=1.0, scheduler_interval=interval)
    list(fit(state, TRAIN, TRAIN, criterion, options))


def rate(step: int) -> float:
    """The learning rate after some steps of the scheduler: it grows for 3 of them, and falls for 9."""
    return 0.1 * (0.25 + 0.25 * step if step < 3 else (1 + math.cos(math.pi * (step - 3) / 9)) / 2)


def test_the_learning_rate_grows_and_falls_step_by_step() -> None:
    state, optimizer = new_state()
    train(state, EPOCHS, "step")
    assert optimizer.rates == pytest.approx([rate(step) for step in range(12)])


def test_it_grows_and_falls_epoch_by_epoch() -> None:
    state, optimizer = new_state()
    train(state, EPOCHS, "epoch")
    assert optimizer.rates == pytest.approx([rate(step // 3) for step in range(12)])


def test_a_restored_training_goes_on_within_the_schedule() -> None:
    state, whole = new_state()
    train(state, EPOCHS, "step")
    first, _ = new_state()
    train(first, 2, "step")
    saved = first.state_dict()
    again, second = new_state()
    again.load_state_dict(saved)
    train(again, EPOCHS, "step")
    assert second.rates == whole.rates[6:]
    for one, other in zip(state.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "key", "message"),
    [
        ({"schedulers": 5, "milestones": [3]}, "schedulers", r"is 5; it must be a list such as \[{name: LinearLR,"),
        ({"schedulers": [WARMUP, 5], "milestones": [3]}, "schedulers.1", "is 5; it must be a mapping with a name"),
        (
            {"schedulers": [WARMUP, {"name": "CosineAnealingLR"}], "milestones": [3]},
            "schedulers.1.name",
            r"is CosineAnealingLR; it must be one of .*; did you mean CosineAnnealingLR\?",
        ),
        (
            {"schedulers": [{"name": "LinearLR", "steps": 1}, COSINE], "milestones": [3]},
            "schedulers.0.steps",
            "is not an argument of LinearLR; allowed: start_factor",
        ),
        ({"schedulers": [WARMUP, COSINE]}, "milestones", "is missing; SequentialLR needs milestones"),
        ({"schedulers": [WARMUP, COSINE], "milestones": []}, "", r"SequentialLR refuses milestones \[\]: .*one more"),
    ],
)
def test_a_mistake_in_one_of_several_schedulers_is_named(arguments: dict[str, Any], key: str, message: str) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(BuildError, match=message) as caught:
        build_scheduler("SequentialLR", arguments, optimizer)
    assert caught.value.key == key


def test_weight_decay_spares_norms_biases_class_token_and_position_embedding() -> None:
    model = build_model("vit", VIT, (1, 4, 4), 3)
    optimizer = build_optimizer("AdamW", {"lr": 0.1, "weight_decay": 0.3}, model, "norms_and_biases")
    names = {parameter: name for name, parameter in model.named_parameters()}
    decays = {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays.keys() == set(names.values())
    assert {name for name, decay in decays.items() if decay == 0.3} == {
        "embedding.projection.weight",
        "encoder.0.attention.qkv.weight",
        "encoder.0.attention.output.weight",
        "encoder.0.mlp.layers.0.weight",
        "encoder.0.mlp.layers.3.weight",
        "classifier.weight",
    }
    assert {decay for decay in decays.values() if decay != 0.3} == {0.0}


def test_without_a_weight_decay_there_is_nothing_to_spare() -> None:
    model = nn.Linear(1, 1)
    assert build_optimizer("AdamW", {"lr": 0.1}, model, "norms_and_biases").param_groups[0]["weight_decay"] == 0.01
    for name in ("SGD", "LBFGS"):
        with pytest.raises(BuildError, match=f"is norms_and_biases, but {name} has no weight decay here; give it one"):
            build_optimizer(name, {"lr": 0.1}, model, "norms_and_biases")
