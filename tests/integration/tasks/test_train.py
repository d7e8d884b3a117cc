"""Training as a stage: streamed from its file, stopped early, stopped by a loss that is not finite."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from learn.data.transformed import Info
from learn.errors import DeviceError
from learn.training.build import build_loss, build_model, build_optimizer
from learn.training.loop import FitOptions, fit
from learn.training.splits import Split, StreamedSplit, load_split
from learn.training.state import State
from tasks.memory import is_streamed
from tasks.tracking.tags import EXPERIMENT
from tests.support.project import ROOT, TRACKWAY, Project

CPU = torch.device("cpu")
MLP = "    optimizer: {name: SGD, lr: 0.1}\n    epochs: 30\n"


def latest(project: Project, dataset: str = "digits") -> mlflow.entities.Run:
    client = mlflow.MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name(dataset)
    assert experiment
    return client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])[0]


def test_streamed_training_gives_the_same_bytes(finished: Project) -> None:
    before = (finished.folder / "models/digits-cnn/model.pt").read_bytes()
    for memory in ("streamed", "resident"):
        finished.edit(
            "params.yaml", "memory: auto" if memory == "streamed" else "memory: streamed", f"memory: {memory}"
        )
        log = finished.stage("train@digits-cnn").stdout
        assert f"inputs {memory}" in log
        assert (finished.folder / "models/digits-cnn/model.pt").read_bytes() == before
    finished.edit("params.yaml", "memory: resident", "memory: streamed")
    metrics = finished.read("metrics/digits/digits-cnn.json")
    finished.stage("evaluate@digits-cnn")
    assert finished.read("metrics/digits/digits-cnn.json") == metrics
    assert "up to date" in finished.run("dvc", "status", "train@digits-cnn").stdout, "memory is no parameter of a run"


def test_a_streamed_part_gives_the_batches_of_a_resident_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "train-inputs.npy", rng.integers(0, 255, (100, 1, 4, 4), dtype=np.uint8))
    np.save(tmp_path / "train-targets.npy", rng.integers(0, 3, 100))
    (tmp_path / "info.json").write_text(Info((1, 4, 4), ("a", "b", "c"), 255.0, {"train": 100}).to_json())
    resident, streamed = load_split(tmp_path, "train"), load_split(tmp_path, "train", streamed=True)
    assert isinstance(streamed, StreamedSplit)
    assert len(streamed) == len(resident) == 100
    order = [*torch.randperm(100).split(7), slice(3, 50), slice(None)]
    for mine, theirs in zip(streamed.batches(order), resident.batches(order), strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])

    def losses(part: Split) -> list[float]:
        torch.manual_seed(42)
        model = build_model("mlp", {"hidden_units": [8], "activation": "ReLU"}, (1, 4, 4), 3)
        state = State(model, build_optimizer("SGD", {"lr": 0.1}, model))
        criterion = build_loss("CrossEntropyLoss", {}, ("a", "b", "c"))
        return [e.metrics["train/loss"] for e in fit(state, part, part, criterion, FitOptions(epochs=3, batch_size=8))]

    assert losses(resident) == losses(streamed)


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np, psutil, torch
from learn.training.build import build_loss, build_model, build_optimizer
from learn.errors import DeviceError
from learn.training.loop import FitOptions, fit
from learn.training.state import State
from learn.training.splits import load_split, split_bytes
from tasks.memory import is_streamed

torch.set_num_threads(1)
folder = Path(sys.argv[1])
model = build_model("mlp", {"hidden_units": [4], "activation": "ReLU"}, (3, 32, 32), 2)
state = State(model, build_optimizer("SGD", {"lr": 0.01}, model))
criterion = build_loss("CrossEntropyLoss", {}, ("a", "b", "c"))
used = int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmData")).split()[1])
resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + 2**28, resource.RLIM_INFINITY))
streamed = is_streamed(sys.argv[2], split_bytes(folder, "train"), torch.device("cpu"))
part = load_split(folder, "train", streamed=streamed)
criterion = build_loss("CrossEntropyLoss", {}, ("a", "b"))
for epoch in fit(state, part, part, criterion, FitOptions(epochs=1, batch_size=256)):
    print("streamed" if streamed else "resident", epoch.samples)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_set_larger_than_the_memory_limit_is_streamed(tmp_path: Path) -> None:
    """300 MB of inputs where 256 MB more are allowed; loading them whole fails, so the limit is one."""
    rows = 100_000
    inputs = np.lib.format.open_memmap(tmp_path / "train-inputs.npy", "w+", np.uint8, (rows, 3, 32, 32))
    for start in range(0, rows, 10_000):
        inputs[start : start + 10_000] = start // 10_000
    inputs.flush()
    del inputs
    np.save(tmp_path / "train-targets.npy", np.arange(rows) % 2)
    (tmp_path / "info.json").write_text(Info((3, 32, 32), ("a", "b"), 255.0, {"train": rows}).to_json())

    def run(memory: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LIMITED, str(tmp_path), memory]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run("streamed")
    assert done.stdout == f"streamed {rows}\n", done.stderr
    assert run("resident").returncode != 0


def test_the_choice_is_made_from_the_sizes() -> None:
    assert is_streamed("auto", 2**50, CPU)
    assert not is_streamed("auto", 2**20, CPU)
    assert is_streamed("streamed", 1, CPU)
    assert not is_streamed("resident", 2**50, CPU)


def test_early_stopping_keeps_the_best_epoch_and_the_last(finished: Project) -> None:
    finished.edit("params.yaml", MLP, MLP.replace("lr: 0.1", "lr: 2.0") + "    early_stopping: {patience: 2}\n")
    log = finished.run("dvc", "repro", "register@digits").stdout
    history = finished.read("plots/history/digits-mlp.csv").splitlines()
    epochs = len(history) - 1
    assert epochs < 30
    losses = [float(line.split(",")[history[0].split(",").index("validation/loss")]) for line in history[1:]]
    best = losses.index(min(losses)) + 1
    assert epochs == best + 2
    assert f"train digits-mlp: kept the best of {epochs} epochs, {best}" in log
    files = {file.name for file in (finished.folder / "models/digits-mlp").iterdir()}
    assert files == {"model.pt", "last.pt"}
    run = latest(finished)
    logged = mlflow.MlflowClient(finished.tracking_uri).list_artifacts(run.info.run_id, "state_dict")
    assert {Path(file.path).name for file in logged} == files
    measured = json.loads(finished.read("metrics/digits/digits-mlp.json"))
    assert measured["epochs"] == epochs
    assert measured["validation"]["loss"] == losses[best - 1], "of the state_dict that is kept"
    curve = mlflow.MlflowClient(finished.tracking_uri).get_metric_history(run.info.run_id, "validation/loss")
    assert [point.value for point in sorted(curve, key=lambda point: point.step)] == losses


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_the_run_of_a_compiled_training_says_what_its_first_epoch_took(finished: Project) -> None:
    """The catalog's experiments, with a model that takes seconds to compile, not a minute."""
    finished.run(*TRACKWAY, "add", "compiled")
    text = finished.read("params.yaml")
    text = re.sub(r"{name: vit, .*}", "{name: mlp, hidden_units: [8], activation: ReLU}", text)
    (finished.folder / "params.yaml").write_text(text, encoding="utf-8")
    client, losses, speeds = mlflow.MlflowClient(finished.tracking_uri), [], list[float]()
    for name in ("digits-eager", "digits-compiled"):
        finished.stage(f"train@{name}")
        run = latest(finished)
        assert run.data.params["compile"] == str(name == "digits-compiled").lower()
        losses.append(run.data.metrics["train/loss"])
        speeds = [point.value for point in client.get_metric_history(run.info.run_id, "samples_per_second")]
    assert 3 * speeds[0] < max(speeds[1:]), "the first epoch compiles"
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


WEIGHTED = {
    "digits-cnn": {"name": "CrossEntropyLoss", "weight": [1, 2, 1, 1, 1, 1, 1, 1, 0.5, 1]},
    "circles-relu": {"name": "BCEWithLogitsLoss", "pos_weight": [1.1]},
}

PREDICT = """
from pathlib import Path
import numpy as np, torch
from tasks.tracking.loading import load_model
from tasks.tracking.names import Store
for dataset, scale in (("digits", 16), ("circles", 1)):
    model = load_model(Store("sqlite:///mlruns/mlflow.db"), f"{dataset}@champion")
    (file,) = Path("data/transformed", dataset).glob("*/test-inputs.npy")
    inputs, targets = (np.load(file.with_name(f"test-{kind}.npy")) for kind in ("inputs", "targets"))
    logits = model(torch.from_numpy(inputs), scale)
    classes = logits.argmax(1) if logits.shape[1] > 1 else logits[:, 0] > 0
    print(dataset, model.about.loss, (classes.numpy() == targets).mean())
"""


def test_losses_with_weights_train_and_become_champion(finished: Project) -> None:
    yaml = YAML()
    data = yaml.load(finished.read("params.yaml"))
    for name in ("digits-mlp", "circles-linear"):
        del data["experiments"][name]

    def checked(losses: dict[str, Any]) -> str:
        for name, loss in losses.items():
            data["experiments"][name]["loss"] = loss
        with (finished.folder / "params.yaml").open("w", encoding="utf-8") as stream:
            yaml.dump(data, stream)
        return finished.run(*TRACKWAY, "check", check=False).stdout

    assert (
        "experiments.digits-cnn.loss.name is CrossEntropyLoss, which does not fit digits (10 classes): weight tensor "
        "should be defined either for all 10 classes or no classes but got weight tensor of shape: torch.Size([2]); "
        "look at its weight"
    ) in checked(WEIGHTED | {"digits-cnn": {"name": "CrossEntropyLoss", "weight": [1, 2]}})
    assert "params.yaml is fine" in checked(WEIGHTED)
    client = mlflow.MlflowClient(finished.tracking_uri)
    for dataset in ("digits", "circles"):
        client.delete_registered_model_alias(dataset, "champion")
    finished.run("dvc", "repro", "register@digits", "register@circles")
    predicted = finished.python(PREDICT).stdout.splitlines()
    for (experiment, loss), line in zip(WEIGHTED.items(), predicted, strict=True):
        dataset, name, accuracy = line.split()
        version = client.get_model_version_by_alias(dataset, "champion")
        assert version.tags[EXPERIMENT] == experiment
        assert name == loss["name"]
        assert float(accuracy) > 0.8
        key = "weight" if "weight" in loss else "pos_weight"
        assert json.loads(client.get_run(version.run_id).data.params[f"loss.{key}"]) == loss[key]


def test_a_loss_that_is_not_finite_ends_the_run_and_registers_nothing(finished: Project) -> None:
    client = mlflow.MlflowClient(finished.tracking_uri)
    champion = client.get_model_version_by_alias("digits", "champion").version
    finished.edit("params.yaml", MLP, MLP.replace("lr: 0.1", "lr: 1.0e+30"))
    done = finished.run("dvc", "repro", "register@digits", check=False)
    assert done.returncode != 0
    assert "error: epoch 1, batch " in done.stdout
    assert "try 0.01, or clip_grad_norm: 1.0" in done.stdout
    assert "Traceback" not in done.stdout
    assert latest(finished).info.status == "FAILED"
    assert client.get_model_version_by_alias("digits", "champion").version == champion
    assert "Running stage 'register@digits'" not in done.stdout


FULL = """        if x.device.type != "meta" and len(x) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        outputs = self.layers(x)"""


def test_a_device_that_runs_out_of_memory_is_told_with_what_fits(finished: Project) -> None:
    """A user's model that has not enough memory for batches of more than 10 samples."""
    finished.edit("learn/models/mlp.py", "        outputs = self.layers(x)", FULL)
    told = "for a batch of 32: cpu has not enough memory (CUDA out of memory); experiments.digits-mlp.batch_size: 8"
    for when in ("", "self.training and "):  # while torchinfo looks at the model, and in the first epoch
        finished.edit("learn/models/mlp.py", "if x.device", f"if {when}x.device")
        done = finished.stage("train@digits-mlp", check=False)
        assert done.returncode == 1
        assert f"error: train digits-mlp: {told} would likely fit\n" in done.stdout
        assert done.stdout.endswith(f"{DeviceError.last_line}\n")
        assert "Traceback" not in done.stdout
        assert latest(finished).info.status != "RUNNING"
    finished.edit("learn/models/mlp.py", "if self.training and ", "if ")
    done = finished.stage("evaluate@digits-mlp", check=False)
    assert done.returncode == 1
    assert "error: evaluate digits-mlp: cpu has not enough memory (CUDA out of memory); free its memory" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.hardware
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, whose memory is to run out")
def test_a_full_gpu_is_told_with_what_fits(finished: Project) -> None:
    """A user's model that takes 164 GB for a batch of 32 and 160 MB for one sample."""
    finished.edit("params.yaml", "device: auto", "device: cuda")
    big = (
        "outputs = self.layers(x) + 0 * x.flatten(1).mean(1, keepdim=True).repeat(1, 40_000_000 * len(x)).sum(1, True)"
    )
    finished.edit("learn/models/mlp.py", "outputs = self.layers(x)", big)
    done = finished.stage("train@digits-mlp", check=False)
    assert done.returncode == 1
    assert re.search(
        r"error: train digits-mlp: for a batch of 32: cuda.* has not enough memory .*would likely fit", done.stdout
    )
    assert "Traceback" not in done.stdout


def test_no_stage_ends_well_with_numbers_that_are_not_finite(finished: Project) -> None:
    """In the validation part with early stopping, in the weights after the last step, in the test part."""
    finished.edit(
        "params.yaml",
        "cluster_std: 1.5, seed: 42}\n    split: {",
        "cluster_std: 1.5, seed: 42}\n    split: {validation: 0.2, ",
    )
    finished.edit("params.yaml", "  blobs-linear:", "  blobs-linear:\n    early_stopping: {patience: 3}")
    for stage in ("split", "transform"):
        finished.stage(f"{stage}@blobs")
    file = finished.folder / "models/blobs-linear/model.pt"
    kept = file.read_bytes()

    def refused(stage: str) -> str:
        done = finished.stage(f"{stage}@blobs-linear", check=False)
        assert done.returncode == 1
        assert "Traceback" not in done.stdout
        assert file.read_bytes() == kept
        return done.stdout

    def spoil(part: str, value: float) -> None:
        inputs = next((finished.folder / "data/transformed/blobs").glob(f"*/{part}-inputs.npy"))
        array = np.load(inputs)
        array[7] = value
        inputs.unlink()  # a link to DVC's cache, perhaps
        np.save(inputs, array)

    spoil("validation", np.nan)
    assert "error: epoch 1: the validation loss is nan: the inputs of batch 1 are not finite" in refused("train")
    assert latest(finished, "blobs").info.status == "FAILED"
    spoil("validation", 0.0)
    finished.edit("params.yaml", "    early_stopping: {patience: 3}\n", "")
    blobs = finished.read("params.yaml").partition("blobs-linear:")[2]
    finished.edit("params.yaml", blobs, blobs.replace("lr: 0.1", "lr: 1.0e+38").replace("epochs: 100", "epochs: 1"))
    shown = refused("train")
    assert "error: epoch 1: the validation loss is " in shown
    assert "likely a learning rate (optimizer.lr) that is too large" in shown
    assert latest(finished, "blobs").info.status == "FAILED"
    spoil("test", np.inf)
    metrics = finished.read("metrics/blobs/blobs-linear.json")
    assert "error: the test loss is nan: the inputs of batch 1 are not finite" in refused("evaluate")
    assert finished.read("metrics/blobs/blobs-linear.json") == metrics


WAVES = """
from dataclasses import dataclass

import numpy as np

from learn.data.source import Generated


@dataclass(frozen=True)
class Waves(Generated):
    @property
    def sizes(self) -> tuple[int, int]:
        return 120, 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, 8, 8)

    @property
    def classes(self) -> tuple[str, ...]:
        return ("lying", "standing")

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(120) % 2
        wave = np.sin(np.arange(8) + np.random.default_rng(0).uniform(0, 6, (120, 1)))[:, None, :].repeat(8, 1)
        x = np.where(y[:, None, None] == 1, wave, wave.transpose(0, 2, 1))
        return x[:, None].astype(np.float32), y.astype(np.int64)
"""

# The one takes the values above 0 out of a batch, the other one decides by them: meta tensors have no values.
MODEL = """
import math

import torch
from torch import nn


class {name}(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], output_size: int) -> None:
        super().__init__()
        units = math.prod(input_shape)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(units, 8), nn.BatchNorm1d(8), nn.Linear(8, output_size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        {statement}
        return self.layers(x)
"""
MODELS = {
    "centred": "x = x - x[x > 0].mean()",
    "deciding": "x = -x if x.mean() > 1 else x",
}

SECTIONS = """
  waves:
    source: {name: waves}
    split: {test: 0.25, shuffle: true, stratify: true, seed: 1}
    transform: {resize: 12}
    champion: {metric: accuracy}

experiments:
  waves-one:
    dataset: waves
    model: {name: centred}
    loss: {name: CrossEntropyLoss}
    optimizer: {name: Adam, lr: 0.01}
    epochs: 10
    batch_size: 16
    seed: 1
    augmentation: [{name: RandomVerticalFlip}, {name: ColorJitter, brightness: 0.2}]
"""

PREDICT_WAVES = """
import numpy as np, torch
from tasks.tracking.loading import load_model
from tasks.tracking.names import Store
model = load_model(Store("sqlite:///mlruns/mlflow.db"), "waves@champion")
inputs, targets = (np.load(f"data/transformed/waves/training/test-{kind}.npy") for kind in ("inputs", "targets"))
batches = torch.from_numpy(inputs).split(16)  # as it was measured: the model looks at the whole batch
print((torch.cat([model(batch, 1) for batch in batches]).argmax(1).numpy() == targets).mean())
"""


def test_a_dataset_of_one_s_own_goes_the_whole_way(finished: Project) -> None:
    """Images of floats, resized and augmented; models that look at values; BatchNorm; arrays of another dtype."""
    (finished.folder / "learn/data/datasets/waves.py").write_text(WAVES)
    with (finished.folder / "learn/data/datasets/__init__.py").open("a") as stream:
        stream.write('\nfrom learn.data.datasets.waves import Waves\n\nDATASETS["waves"] = Waves\n')
    models = finished.read("learn/models/__init__.py")
    for name, statement in MODELS.items():
        code = MODEL.format(name=name.title(), statement=statement)
        (finished.folder / f"learn/models/{name}.py").write_text(code)
        models += f'\nfrom learn.models.{name} import {name.title()}\n\nMODELS["{name}"] = {name.title()}\n'
    (finished.folder / "learn/models/__init__.py").write_text(models)
    finished.edit("params.yaml", "\nexperiments:\n", SECTIONS)
    finished.run("dvc", "repro", "register@waves")
    inputs = np.load(finished.folder / "data/transformed/waves/training/train-inputs.npy")
    assert inputs.shape == (90, 1, 12, 12)
    assert inputs.dtype == np.float32
    assert -1 <= inputs.min() < -0.9 < 0.9 < inputs.max() <= 1
    measured = json.loads(finished.read("metrics/waves/waves-one.json"))["accuracy"]
    assert float(finished.python(PREDICT_WAVES).stdout) == pytest.approx(measured)

    # a model that torch.export cannot store trains and is measured
    finished.edit("params.yaml", "{name: centred}", "{name: deciding}")
    finished.stage("train@waves-one")
    shown = finished.stage("evaluate@waves-one").stdout
    assert "evaluate waves-one: the model cannot be kept in MLflow and become champion" in shown

    # fewer samples than params.yaml can tell, as with photos that are left out: a last batch of one
    for kind in ("inputs", "targets"):
        file = finished.folder / f"data/transformed/waves/training/train-{kind}.npy"
        array = np.load(file)
        file.unlink()
        np.save(file, array[:81])
    done = finished.stage("train@waves-one", check=False)
    assert done.returncode == 1
    assert (
        "error: experiments.waves-one: batch_size is 16: of 81 samples for training it leaves a batch of 1"
        in done.stdout
    )
    assert "set batch_size to 15, which leaves none" in done.stdout

    finished.edit("learn/data/datasets/waves.py", "x[:, None].astype(np.float32)", "x[:, None].astype(np.float64)")
    done = finished.run("dvc", "repro", "train@waves-one", check=False)
    assert (
        "error: experiments.waves-one: dtype: the inputs are float64, the model's parameters float32: "
        "read() must give float32" in done.stdout
    )
    assert "Traceback" not in done.stdout
