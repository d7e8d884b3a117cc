"""The loop in three forms: equal to a reference, bitwise deterministic, converges."""

from __future__ import annotations

import platform
import shutil
import subprocess
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from learn.errors import DeviceError
from learn.training.build import build_loss, build_model, build_optimizer, build_scheduler
from learn.training.criterion import Criterion
from learn.training.device import use_device
from learn.training.early_stopping import EarlyStopping
from learn.training.evaluate import evaluate_split
from learn.training.loop import Epoch, FitOptions, fit
from learn.training.order import shuffled
from learn.training.splits import Split
from learn.training.state import State

SAMPLES, CLASSES, BATCH = 70, 3, 32  # the last batch is short: 6 samples


def part(name: str, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
    noise = torch.randint(0, 120, (SAMPLES, 1, 4, 4), generator=generator)
    inputs = (noise + 60 * targets.view(-1, 1, 1, 1)).to(torch.uint8)
    return Split(name, inputs, targets, 255.0, torch.contiguous_format)


TRAIN, TEST = part("train", 1), part("test", 2)


class WithDropout(nn.Module):
    """Draws random numbers while it trains, as a model may."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def criterion() -> Criterion:
    return build_loss("CrossEntropyLoss", {}, ("a", "b", "c"))


def new_state(model: type[nn.Module] = WithDropout, name: str = "SGD", **arguments: Any) -> State:
    torch.manual_seed(42)
    built = model()
    optimizer = build_optimizer(name, {"lr": 0.1, **arguments}, built)
    return State(built, optimizer, build_scheduler("StepLR", {"step_size": 2, "gamma": 0.9}, optimizer))


def trained(state: State, epochs: int, batch_size: int | None = BATCH) -> list[Epoch]:
    return list(fit(state, TRAIN, TEST, criterion(), FitOptions(epochs=epochs, batch_size=batch_size)))


def the_course_s_loop(epochs: int) -> tuple[list[dict[str, float]], nn.Module]:
    """Batches from DataLoaders, sample by sample; means over batches."""
    torch.manual_seed(42)
    model = WithDropout()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.9)
    loss_fn = nn.CrossEntropyLoss()
    train, test = (
        DataLoader(TensorDataset(p.inputs.float() / 255, p.targets), BATCH, shuffle=p is TRAIN) for p in (TRAIN, TEST)
    )
    torch.manual_seed(42)
    history = []
    for _ in range(epochs):
        model.train()
        train_loss = 0.0
        for x, y in train:
            loss = loss_fn(model(x), y)
            train_loss += loss.item()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        model.eval()
        test_loss = accuracy = 0.0
        with torch.inference_mode():
            for x, y in test:
                logits = model(x)
                test_loss += loss_fn(logits, y).item()
                accuracy += (logits.argmax(1) == y).float().mean().item()
        history.append({"train": train_loss / len(train), "test": test_loss / len(test), "acc": accuracy / len(test)})
    return history, model


def test_it_gives_the_same_weights_as_the_course_s_loop_even_with_dropout() -> None:
    state = new_state()
    torch.manual_seed(42)
    ours = trained(state, 3)
    reference, model = the_course_s_loop(3)
    assert all(torch.equal(a, b) for a, b in zip(state.model.parameters(), model.parameters(), strict=True))
    for epoch, expected in zip(ours, reference, strict=True):
        assert epoch.metrics["train/loss_batch_mean"] == pytest.approx(expected["train"], abs=1e-6)
        assert epoch.metrics["test/loss_batch_mean"] == pytest.approx(expected["test"], abs=1e-6)
        assert epoch.metrics["test/accuracy_batch_mean"] == pytest.approx(expected["acc"], abs=1e-6)


def test_a_training_with_fewer_epochs_is_the_beginning_of_its_longer_twin() -> None:
    """With dropout, a scheduler, and batches in a new order in each epoch."""
    short, long = ([epoch.metrics for epoch in trained(new_state(), epochs)] for epochs in (3, 6))
    assert short == long[:3]


def test_batches_are_those_of_a_shuffling_data_loader() -> None:
    torch.manual_seed(7)
    loader = DataLoader(TensorDataset(torch.arange(SAMPLES)), BATCH, shuffle=True)
    expected = [batch.tolist() for (batch,) in loader]
    torch.manual_seed(7)
    torch.empty((), dtype=torch.int64).random_()  # the loader's seed for its workers
    ours = [index.tolist() for index in shuffled(SAMPLES, BATCH, torch.device("cpu")) if not isinstance(index, slice)]
    assert ours == expected


def test_the_mean_over_samples_differs_from_the_mean_over_batches_where_the_last_one_is_short() -> None:
    model = WithDropout()
    metrics, logits = evaluate_split(model, TEST, criterion(), BATCH)
    inputs, targets = TEST.batch(slice(None))
    with torch.inference_mode():
        whole = nn.functional.cross_entropy(model(inputs), targets).item()
    assert metrics["test/loss"] == pytest.approx(whole, abs=1e-6)
    assert metrics["test/accuracy"] == (logits.argmax(1) == TEST.targets).double().mean().item()
    assert metrics["test/loss"] != metrics["test/loss_batch_mean"]


def test_two_runs_are_equal_to_the_bit() -> None:
    first, second = new_state(), new_state()
    torch.manual_seed(42)
    one = trained(first, 3)
    torch.manual_seed(42)
    two = trained(second, 3)
    assert [e.metrics for e in one] == [e.metrics for e in two]
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


def test_going_on_from_a_state_dict_is_equal_to_the_bit() -> None:
    whole = new_state(name="Adam")
    torch.manual_seed(42)
    expected = trained(whole, 4)

    half = new_state(name="Adam")
    torch.manual_seed(42)
    trained(half, 2)
    saved = half.state_dict()
    resumed = new_state(name="Adam")
    resumed.load_state_dict(saved)
    rest = trained(resumed, 4)
    assert [e.metrics for e in rest] == [e.metrics for e in expected[2:]]
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True))


def test_early_stopping_goes_on_where_it_was() -> None:
    """A learning rate that is too large for long: the best epoch comes early, and the patience ends the training."""

    def state() -> State:
        made = new_state(Plain, "Adam", lr=0.3)
        made.early_stopping = EarlyStopping(made.model, patience=3)
        return made

    whole, half, resumed = state(), state(), state()
    torch.manual_seed(42)
    expected = trained(whole, 40)
    torch.manual_seed(42)
    trained(half, 2)
    resumed.load_state_dict(half.state_dict())
    rest = trained(resumed, 40)
    assert 3 < len(expected) < 40
    assert [epoch.metrics for epoch in rest] == [epoch.metrics for epoch in expected[2:]]
    assert whole.early_stopping
    assert resumed.early_stopping
    assert resumed.early_stopping.epoch == whole.early_stopping.epoch == len(expected) - 3
    best = whole.early_stopping.state_dict
    assert all(torch.equal(value, best[key]) for key, value in resumed.early_stopping.state_dict.items())


class Plain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, CLASSES))


@pytest.mark.parametrize(("name", "arguments"), [("SGD", {"lr": 0.3}), ("Adam", {"lr": 0.02}), ("LBFGS", {})])
def test_it_converges(name: str, arguments: dict[str, float]) -> None:
    state = new_state(Plain, name, **arguments)
    history = trained(state, 40, None if name == "LBFGS" else BATCH)
    assert history[-1].metrics["test/loss"] < history[0].metrics["test/loss"]
    assert history[-1].metrics["test/accuracy"] > 0.8
    assert history[-1].metrics["lr"] < history[0].metrics["lr"]


def test_a_plateau_scheduler_gets_the_held_out_loss() -> None:
    torch.manual_seed(0)
    model = build_model("mlp", {"hidden_units": [4], "activation": "ReLU"}, (1, 4, 4), CLASSES)
    optimizer = build_optimizer("SGD", {"lr": 0.1}, model)
    growing = build_scheduler("ReduceLROnPlateau", {"mode": "max", "patience": 0}, optimizer)
    assert trained(State(model, optimizer, growing), 5)[-1].metrics["lr"] < 0.1  # the loss does not grow


def test_a_device_that_is_not_there_is_refused_with_what_is() -> None:
    with pytest.raises(
        DeviceError, match=r"device is cuda:99; this machine has cpu.*: write device: .*, or device: auto"
    ):
        use_device("cuda:99", 1)
    assert use_device("cpu", 1) == torch.device("cpu")


def test_auto_takes_the_accelerator_that_the_system_lists_and_works_on_it() -> None:
    """Asks NVIDIA's driver, not torch."""
    listed = ["nvidia-smi", "--list-gpus"]
    nvidia = bool(shutil.which(listed[0])) and "GPU 0" in subprocess.run(listed, capture_output=True, text=True).stdout
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    device = use_device("auto", 1)
    assert device.type == ("cuda" if nvidia else "mps" if apple else "cpu")
    assert float(torch.ones(3, device=device).sum()) == 3.0
