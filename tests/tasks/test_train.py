"""Training as a stage: streamed from its file, stopped early, stopped by a loss that is not finite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from learn.build import build_loss, build_model, build_optimizer
from learn.loop import State, fit
from learn.parts import Info, StreamedPart, load_part
from tasks.stage import is_streamed
from tests.conftest import ROOT, Project

CPU = torch.device("cpu")
MLP = "    optimizer: {name: SGD, lr: 0.1}\n    epochs: 30\n"


def latest(project: Project) -> mlflow.entities.Run:
    client = mlflow.MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name("digits")
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
    resident, streamed = load_part(tmp_path, "train"), load_part(tmp_path, "train", streamed=True)
    assert isinstance(streamed, StreamedPart)
    assert len(streamed) == len(resident) == 100
    order = [*torch.randperm(100).split(7), slice(3, 50), slice(None)]
    for mine, theirs in zip(streamed.batches(order), resident.batches(order), strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])

    def losses(part) -> list[float]:  # type: ignore[no-untyped-def]
        torch.manual_seed(42)
        model = build_model("mlp", {"hidden_units": [8], "activation": "ReLU"}, (1, 4, 4), 3)
        state = State(model, build_optimizer("SGD", {"lr": 0.1}, model))
        objective = build_loss("CrossEntropyLoss", {}, ("a", "b", "c"))
        return [e.metrics["train/loss"] for e in fit(state, part, part, objective, epochs=3, batch_size=8)]

    assert losses(resident) == losses(streamed)


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np, psutil, torch
from learn.build import build_loss, build_model, build_optimizer
from learn.loop import State, fit
from learn.parts import load_part, part_bytes
from tasks.stage import is_streamed

torch.set_num_threads(1)
folder = Path(sys.argv[1])
model = build_model("mlp", {"hidden_units": [4], "activation": "ReLU"}, (3, 32, 32), 2)
state = State(model, build_optimizer("SGD", {"lr": 0.01}, model))
objective = build_loss("CrossEntropyLoss", {}, ("a", "b", "c"))
used = int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmData")).split()[1])
resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + 2**28, resource.RLIM_INFINITY))
streamed = is_streamed(sys.argv[2], part_bytes(folder, "train"), torch.device("cpu"))
part = load_part(folder, "train", streamed=streamed)
for epoch in fit(state, part, part, build_loss("CrossEntropyLoss", {}, ("a", "b")), epochs=1, batch_size=256):
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
    assert json.loads(finished.read("metrics/digits/digits-mlp.json"))["epochs"] == epochs


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
