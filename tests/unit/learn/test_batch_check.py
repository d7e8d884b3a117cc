"""The three most common errors, told before the first epoch: shape, dtype, device."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from learn.errors import BatchError, DeviceError, NotFiniteError, ParamsError
from learn.models import MODELS
from learn.training.batch_check import largest_batch, try_batch, try_batches
from learn.training.build import build_loss
from learn.training.device import use_device
from learn.training.early_stopping import EarlyStopping
from learn.training.loop import FitOptions, fit
from learn.training.splits import Split
from learn.training.state import State
from tasks.params.preflight import check
from tests.support.project import ROOT
from tests.unit.learn.test_loop import TEST, TRAIN, criterion, new_state

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
    monkeypatch.setitem(MODELS, "course", CourseTinyVGG)
    path = food(tmp_path, "{name: course, hidden_units: 10}")
    with pytest.raises(ParamsError) as caught:
        check(path)
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
        list(fit(state, TRAIN, TEST, criterion(), FitOptions(epochs=3, batch_size=32)))
    message = str(caught.value)
    assert message.startswith("epoch 1, batch ")
    assert "the loss is nan" in message or "the loss is inf" in message
    assert "a learning rate (optimizer.lr, now 1e+30) that is too large: try 0.01, or clip_grad_norm: 1.0" in message


def test_inputs_that_are_not_finite_are_named_as_the_cause() -> None:
    inputs = torch.rand(40, 4)
    inputs[7, 2] = torch.nan
    part = Split("train", inputs, torch.zeros(40, dtype=torch.int64), 1.0, torch.contiguous_format)
    model = nn.Linear(4, 3)
    state = State(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(NotFiniteError, match="the batch's inputs are not finite: look at the dataset's raw files"):
        list(fit(state, part, part, criterion(), FitOptions(epochs=1, batch_size=8)))


def test_a_held_out_loss_that_is_not_finite_ends_training() -> None:
    """The last step's weights are finite and so large that the loss is not; then it is the part's inputs."""
    line = Split("train", torch.rand(40, 1), torch.rand(40, 1), 1.0, torch.contiguous_format)
    state = State(model := nn.Linear(1, 1), torch.optim.SGD(model.parameters(), lr=1e30))
    squared = build_loss("MSELoss", {}, ())
    with pytest.raises(NotFiniteError, match=r"^epoch 1: the test loss is inf; likely a learning rate .* too large"):
        list(fit(state, line, replace(line, name="test"), squared, FitOptions(epochs=1, batch_size=None)))

    inputs = torch.rand(40, 1)
    inputs[37] = torch.inf
    broken = Split("validation", inputs, line.targets, 1.0, torch.contiguous_format)
    state = State(model := nn.Linear(1, 1), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(
        NotFiniteError, match=r"^epoch 1: the validation loss is \w+: the inputs of batch 5 are not fin"
    ):
        list(fit(state, line, broken, squared, FitOptions(epochs=1, batch_size=8)))


def test_weights_that_leave_a_batch_nothing_are_named_as_the_cause() -> None:
    state, weighted = new_state(), build_loss("CrossEntropyLoss", {"weight": [0, 1, 1]}, ("a", "b", "c"))
    with pytest.raises(NotFiniteError, match="the loss is nan; all of its targets have weight 0"):
        list(fit(state, TRAIN, TEST, weighted, FitOptions(epochs=1, batch_size=1)))


def test_clipped_gradients_change_no_parameter_by_more_than_they_may() -> None:
    state = new_state(lr=1.0)
    before = [p.detach().clone() for p in state.model.parameters()]
    list(fit(state, TRAIN, TEST, criterion(), FitOptions(epochs=1, batch_size=None, clip_grad_norm=1e-3)))
    moved = (
        sum(float((p.detach() - q).pow(2).sum()) for p, q in zip(state.model.parameters(), before, strict=True)) ** 0.5
    )
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_the_best_epoch_is_kept_and_training_ends_after_patience() -> None:
    model = nn.Linear(1, 1)
    best = EarlyStopping(model, patience=2)
    over = []
    for epoch, loss in enumerate([3.0, 1.0, 2.0, 1.0], start=1):
        with torch.no_grad():
            model.weight.fill_(epoch)
        best.look(loss)
        over.append(best.is_over)
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
        (
            "scheduler: {name: ReduceLROnPlateau}",
            "scheduler.name is ReduceLROnPlateau, which needs a validation part to look at; give datasets.food.split",
        ),
        ("clip_grad_norm: 0", "experiments.one.clip_grad_norm is 0; it must be > 0"),
    ],
)
def test_a_mistake_in_the_new_keys_is_named(tmp_path: Path, extra: str, message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        check(food(tmp_path, "{name: tiny_vgg, hidden_units: 10}", extra=f"    {extra}\n"))
    assert message in str(caught.value)


def test_a_scheduler_is_stepped_for_every_epoch(tmp_path: Path) -> None:
    for scheduler, message in (
        ("OneCycleLR, max_lr: 0.1, cycle_momentum: false, total_steps: 999", "fails after epoch 1000 of 1000: Tried"),
        ("OneCycleLR, max_lr: 0.1, cycle_momentum: false, total_steps: 1000", ""),
        ("CosineAnnealingLR, T_max: 10", ""),
    ):
        path = food(tmp_path, "{name: tiny_vgg, hidden_units: 10}", extra=f"    scheduler: {{name: {scheduler}}}\n")
        path.write_text(path.read_text().replace("epochs: 1\n", "epochs: 1000\n"))
        if message:
            with pytest.raises(ParamsError) as caught:
                check(path)
            assert message in str(caught.value)
            assert "such as scheduler.total_steps, must be 1000 or more" in str(caught.value)
        else:
            check(path)


class Normalised(nn.Module):
    """BatchNorm over vectors: while it trains it takes two samples or more."""

    def __init__(self, input_shape: tuple[int, ...], output_size: int) -> None:
        super().__init__()
        features = math.prod(input_shape)
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(features), nn.Linear(features, output_size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_a_last_batch_of_one_sample_is_refused_where_the_model_does_not_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "normalised", Normalised)
    path = food(tmp_path, "{name: normalised}")  # 225 photos
    with pytest.raises(ParamsError) as caught:
        check(path)
    assert "one.batch_size is 32: of 225 samples for training it leaves a batch of 1, which" in str(caught.value)
    check(food(tmp_path, "{name: normalised}", extra="    fraction: 0.5\n"))  # 112 photos
    assert "Expected more than 1 value per channel when training" in str(caught.value)
    assert "set batch_size to 31, which leaves none" in str(caught.value)
    path.write_text(path.read_text().replace("batch_size: 32", "batch_size: 31"))
    check(path)
    with pytest.raises(BatchError, match=r"batch_size is full: of 1 samples .*; give the train part more samples"):
        try_batches(Normalised((4,), 3), criterion(), torch.rand(1, 4), torch.zeros(1).long(), 1, None)


class Looking(nn.Module):
    """Decides by values: in its constructor, which the meta device cannot build, and while it runs."""

    def __init__(self, input_shape: tuple[int, ...], output_size: int, *, built_by_value: bool) -> None:
        super().__init__()
        units = int(torch.ones(3).sum()) if built_by_value else 3
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(input_shape), units), nn.BatchNorm1d(units), nn.Linear(units, output_size)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(-x if x.mean() > 0 else x)


def test_a_model_that_looks_at_values_is_tried_with_two_samples_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "looking", Looking)
    for by_value in ("true", "false"):
        path = food(tmp_path, f"{{name: looking, built_by_value: {by_value}}}")
        path.write_text(path.read_text().replace("batch_size: 32", "batch_size: 30"))
        check(path)
    model = Looking((4,), 3, built_by_value=False)
    inputs, before = torch.rand(2, 4), {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    try_batches(model, criterion(), inputs, torch.zeros(2).long(), 70, 32)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(BatchError, match=r"is given .* and expects 4 features: set its in_features to 5"):
        try_batches(model, criterion(), torch.rand(2, 5), torch.zeros(2).long(), 70, 32)


def test_photos_need_their_transform_and_others_have_no_use_for_it(tmp_path: Path) -> None:
    path = food(tmp_path, "{name: tiny_vgg, hidden_units: 10}")
    path.write_text(path.read_text().replace("{resize: 64, mode: RGB, broken: stop}", "{resize: 64}"))
    with pytest.raises(ParamsError) as caught:
        check(path)
    assert "datasets.food.transform.mode is missing; photos need it, such as mode: RGB" in str(caught.value)
    assert "datasets.food.transform.broken is missing" in str(caught.value)


def test_the_largest_batch_of_which_a_step_passes_is_found() -> None:
    def step(samples: int) -> None:
        if samples > 10 or samples == 1:
            raise torch.OutOfMemoryError

    assert largest_batch(step, 64) == 8
    assert largest_batch(step, 2) == 0


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, whose losses are looked at now and then")
def test_a_loss_that_is_not_finite_is_told_with_the_inputs_of_its_own_batch_on_a_gpu() -> None:
    inputs = torch.zeros(640, 1, 4, 4)
    inputs[2] = float("nan")
    device = torch.device("cuda")
    part = Split("train", inputs, torch.zeros(640).long(), 1.0, torch.contiguous_format).to(device)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).to(device)
    state = State(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(NotFiniteError, match=r"the loss is nan; the batch's inputs are not finite"):
        list(fit(state, part, part, criterion(), FitOptions(epochs=1, batch_size=32)))
