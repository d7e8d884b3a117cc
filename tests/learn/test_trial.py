"""The three most common errors, told before the first epoch: shape, dtype, device."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from learn import build
from learn.build import build_loss
from learn.checks import check
from learn.errors import BatchError, DeviceError, NotFiniteError, ParamsError
from learn.loop import Best, State, fit, use_device
from learn.parts import Part
from learn.trial import batch_size_that_fits, try_batch
from tasks.train import Plan, _told_what_fits
from tests.conftest import ROOT
from tests.learn.test_loop import TEST, TRAIN, new_state, objective

CLASSES = ("pizza", "steak", "sushi")


class CourseTinyVGG(nn.Module):
    """The course's, with the mistake that everybody makes once: the last layer fits pictures of 28 × 28."""

    def __init__(self, input_shape: tuple[int, ...], output_size: int, *, hidden_units: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, hidden_units, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(hidden_units * 7 * 7, output_size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.block(x))


def food(tmp_path: Path, model: str, resize: int = 64, extra: str = "") -> Path:
    """params.yaml with one experiment on the catalog's photos."""
    text = (ROOT / "catalog/food.yaml").read_text(encoding="utf-8")
    head = (ROOT / "params.yaml").read_text(encoding="utf-8").partition("datasets:")[0]
    datasets = text.partition("experiments:")[0].replace("resize: 64", f"resize: {resize}")
    experiment = (
        "experiments:\n  one:\n    dataset: food\n"
        f"    model: {model}\n    loss: {{name: CrossEntropyLoss}}\n    optimizer: {{name: SGD, lr: 0.1}}\n"
        f"    epochs: 1\n    batch_size: 32\n    seed: 42\n{extra}"
    )
    path = tmp_path / "params.yaml"
    path.write_text(head + datasets + experiment, encoding="utf-8")
    return path


def test_a_wrong_shape_names_the_layer_the_number_and_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(build.MODELS, "course", CourseTinyVGG)
    path = food(tmp_path, "{name: course, hidden_units: 10}")
    start = time.perf_counter()
    with pytest.raises(ParamsError) as caught:
        check(path)
    assert time.perf_counter() - start < 5  # one second on a machine that does nothing else
    message = str(caught.value)
    assert "experiments.one.model.name is course, dataset food: shape: with inputs of shape (3, 64, 64)" in message
    assert "layer classifier.1 Linear(in_features=490, out_features=3, bias=True) is given (B, 2560)" in message
    assert "expects 490 features: set its in_features to 2560" in message
    assert "or set datasets.food.transform.resize to 31, which fits" in message
    check(food(tmp_path, "{name: course, hidden_units: 10}", resize=31))


def test_photos_too_small_for_tiny_vgg_are_told_the_size_that_fits(tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as caught:
        check(food(tmp_path, "{name: tiny_vgg, hidden_units: 10}", resize=3))
    assert "at least 4×4" in str(caught.value)
    assert "set datasets.food.transform.resize to 4, which fits" in str(caught.value)


def test_a_wrong_number_of_channels_names_the_layer() -> None:
    model = CourseTinyVGG((3, 28, 28), 3, hidden_units=2)
    with pytest.raises(BatchError) as caught:
        try_batch(model, build_loss("CrossEntropyLoss", {}, CLASSES), torch.empty(5, 1, 28, 28), torch.zeros(5).long())
    assert "layer block.0 Conv2d(3, 2" in str(caught.value)
    assert "is given (B, 1, 28, 28) and expects 3 channels" in str(caught.value)


LINEAR = nn.Linear(4, 3)


@pytest.mark.parametrize(
    ("loss", "classes", "inputs", "targets", "message"),
    [
        ("CrossEntropyLoss", CLASSES, torch.float32, torch.float32,
         "the targets are float32; CrossEntropyLoss wants the indices of the classes in int64"),
        ("CrossEntropyLoss", CLASSES, torch.float32, torch.int32,
         "the targets are int32; CrossEntropyLoss wants the indices of the classes in int64"),
        ("BCEWithLogitsLoss", (), torch.float32, torch.int64, "the targets are int64; BCEWithLogitsLoss wants floats"),
        ("CrossEntropyLoss", CLASSES, torch.float64, torch.int64,
         "the inputs are float64, the model's parameters float32: read() must give float32"),
    ],
)  # fmt: skip
def test_a_wrong_dtype_names_what_is_wanted(
    loss: str, classes: tuple[str, ...], inputs: torch.dtype, targets: torch.dtype, message: str
) -> None:
    with pytest.raises(BatchError) as caught:
        try_batch(LINEAR, build_loss(loss, {}, classes), torch.zeros(5, 4, dtype=inputs), torch.zeros(5, dtype=targets))
    assert str(caught.value).startswith("dtype: ")
    assert message in str(caught.value)


def test_the_trial_costs_no_random_numbers_and_leaves_the_model_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    try_batch(model, build_loss("CrossEntropyLoss", {}, CLASSES), torch.empty(5, 4), torch.zeros(5).long())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.hardware
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device that the test asks for in vain")
def test_a_device_that_is_not_there_is_told_with_what_is_and_how_to_ask_for_it() -> None:
    with pytest.raises(DeviceError) as caught:
        use_device("cuda", 1)
    assert "device is cuda; this machine has cpu" in str(caught.value)
    assert "write device: cpu in params.yaml, or device: auto" in str(caught.value)


# ---- training that goes wrong


def test_a_loss_that_is_not_finite_stops_at_its_batch_with_the_cause() -> None:
    state = new_state(lr=1e30)
    with pytest.raises(NotFiniteError) as caught:
        list(fit(state, TRAIN, TEST, objective(), epochs=3, batch_size=32))
    message = str(caught.value)
    assert message.startswith("epoch 1, batch ")
    assert "the loss is nan" in message or "the loss is inf" in message
    assert "a learning rate (optimizer.lr, now 1e+30) that is too large: try 0.01, or clip_grad_norm: 1.0" in message


def test_inputs_that_are_not_finite_are_named_as_the_cause() -> None:
    inputs = torch.rand(40, 4)
    inputs[7, 2] = torch.nan
    part = Part("train", inputs, torch.zeros(40, dtype=torch.int64), 1.0, torch.contiguous_format)
    model = nn.Linear(4, 3)
    state = State(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(NotFiniteError, match="the batch's inputs are not finite: look at the dataset's raw files"):
        list(fit(state, part, part, objective(), epochs=1, batch_size=8))


def test_clipped_gradients_change_no_parameter_by_more_than_they_may() -> None:
    state = new_state(lr=1.0)
    before = [p.detach().clone() for p in state.model.parameters()]
    list(fit(state, TRAIN, TEST, objective(), epochs=1, batch_size=None, clip_grad_norm=1e-3))
    moved = (
        sum(float((p.detach() - q).pow(2).sum()) for p, q in zip(state.model.parameters(), before, strict=True)) ** 0.5
    )
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_the_best_epoch_is_kept_and_training_ends_after_patience() -> None:
    model = nn.Linear(1, 1)
    best = Best(model, patience=2)
    over = []
    for epoch, loss in enumerate([3.0, 1.0, 2.0, 1.0], start=1):
        with torch.no_grad():
            model.weight.fill_(epoch)
        over.append(best.is_over(loss))
    assert over == [False, False, False, True]
    assert best.epoch == 2
    assert best.state_dict["weight"].item() == 2


# ---- augmentation and early stopping in params.yaml


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("augmentation: [{name: RandomFlip}]", "augmentation.0.name is RandomFlip; it must be one of"),
        ("augmentation: [{name: RandomCrop, size: 32}]", "RandomCrop makes (3, 32, 32) of (3, 64, 64)"),
        ("augmentation: [{name: Normalize, mean: [0.5], std: [0.5]}]", "augmentation.0: Normalize does not take"),
        (
            "early_stopping: {patience: 3}",
            "needs a validation part to look at; give datasets.food.split validation: 0.2, shuffle: true",
        ),
        ("clip_grad_norm: 0", "experiments.one.clip_grad_norm is 0; it must be > 0"),
    ],
)
def test_a_mistake_in_the_new_keys_is_named(tmp_path: Path, extra: str, message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        check(food(tmp_path, "{name: tiny_vgg, hidden_units: 10}", extra=f"    {extra}\n"))
    assert message in str(caught.value)


def test_photos_need_their_transform_and_others_have_no_use_for_it(tmp_path: Path) -> None:
    path = food(tmp_path, "{name: tiny_vgg, hidden_units: 10}")
    path.write_text(path.read_text().replace("{resize: 64, mode: RGB, broken: stop}", "{resize: 64}"))
    with pytest.raises(ParamsError) as caught:
        check(path)
    assert "datasets.food.transform.mode is missing; photos need it, such as mode: RGB" in str(caught.value)
    assert "datasets.food.transform.broken is missing" in str(caught.value)


def test_the_batch_size_that_fits_is_told_from_two_small_steps() -> None:
    """A model of 1,000 bytes, and 10 bytes a sample."""
    assert batch_size_that_fits(lambda samples: 1000 + 10 * samples, 10_000) == 800
    assert batch_size_that_fits(lambda samples: 1000 + 10 * samples, 1000) == 0


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, whose memory is to run out")
def test_a_full_gpu_is_told_with_a_batch_size_that_fits(tmp_path: Path) -> None:
    device = torch.device("cuda")
    part = Part("train", torch.zeros(4096, 64, 1024), torch.zeros(4096).long(), 1.0, torch.contiguous_format).to(device)
    model = nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Flatten(), nn.Linear(4096 * 64, 3)).to(device)
    torch.cuda.set_per_process_memory_fraction(0.1)
    try:
        planned = Plan(device, part, part, objective(), model, None, 4096, None, {})
        state = State(model, torch.optim.SGD(model.parameters(), lr=0.1))
        with pytest.raises(DeviceError, match=r"batch_size: \d+ would likely fit"), _told_what_fits("one", planned):
            list(fit(state, part, part, objective(), epochs=1, batch_size=4096))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
