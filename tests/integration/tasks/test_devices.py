"""Several devices in one training: processes on the CPU stand for GPUs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import mlflow
import psutil
import pytest
import torch
from torch import distributed, multiprocessing, nn

from learn.training.criterion import Criterion
from learn.training.evaluate import evaluate_split
from learn.training.history import read_history
from learn.training.loop import FitOptions, fit
from learn.training.ranks import Ranks
from learn.training.splits import Split
from learn.training.state import State
from tasks.workspace.environment import WARM
from tests.integration.tasks.test_train import MLP, latest
from tests.support.project import TRACKWAY, Project, wait_until

NAME = "  digits-mlp:\n"


def history(project: Project) -> list[dict[str, float]]:
    return read_history(Path(project.folder, "plots/history/digits-mlp.csv"))


def test_two_processes_train_as_one_does(finished: Project) -> None:
    """Also the last batch of an epoch, which has one sample, so that one of the processes has none."""
    finished.edit("params.yaml", MLP + "    batch_size: 32\n", MLP + "    batch_size: 157\n")
    finished.stage("train@digits-mlp")
    one = history(finished)
    finished.edit("params.yaml", NAME, NAME + "    devices: 2\n")
    log = finished.stage("train@digits-mlp").stdout
    assert "train digits-mlp: 2 processes, each on the CPU" in log
    assert log.count("epoch 30/30") == 1, "one process speaks for both"
    for mine, other in zip(history(finished), one, strict=True):
        assert mine == pytest.approx(other, abs=1e-5)
    run = latest(finished)
    assert (run.info.status, run.data.params["devices"]) == ("FINISHED", "2")
    assert len(mlflow.MlflowClient(finished.tracking_uri).get_metric_history(run.info.run_id, "lr")) == 30
    finished.stage("evaluate@digits-mlp")
    done = finished.run(*TRACKWAY, "sweep", "digits-mlp", "-S", "optimizer.lr=[0.1, 0.2]", check=False)
    assert done.returncode == 1
    assert "experiments.digits-mlp.devices is 2; a trial is one process, so it must be 1" in done.stdout


@pytest.mark.parametrize("killed", ["a rank", "the stage", "all, by Ctrl-C"])
def test_the_death_of_one_process_ends_all_and_loses_nothing(finished: Project, killed: str) -> None:
    models = finished.folder / "models/digits-mlp"
    before = {file: file.read_bytes() for file in models.iterdir()}
    finished.edit("params.yaml", MLP, "    devices: 2\n" + MLP.replace("30", "5000"))
    with finished.start("python", "-m", "tasks.train", "digits-mlp", **{WARM: "off"}) as training:
        wait_until(lambda: latest(finished).info.status == "RUNNING", 120)
        ranks = [each for each in psutil.Process(training.pid).children() if "tasks.train" in each.cmdline()]
        assert len(ranks) == 2
        if killed == "all, by Ctrl-C":
            os.killpg(training.pid, signal.SIGINT)
        else:
            os.kill(ranks[1].pid if killed == "a rank" else training.pid, signal.SIGKILL)
        said = training.communicate(timeout=120)[0]
    wait_until(lambda: not any(each.is_running() and each.status() != "zombie" for each in ranks), 60)
    assert training.returncode == {"a rank": 137, "the stage": -signal.SIGKILL, "all, by Ctrl-C": 130}[killed]
    assert "death signal" not in said, "torch is silent"
    if killed == "a rank":
        assert "error: tasks.train digits-mlp: process 2 of 2 was ended by SIGKILL" in said
    wait_until(lambda: latest(finished).info.status in ("FAILED", "KILLED"), 60)
    assert {file: file.read_bytes() for file in models.iterdir()} == before
    finished.edit("params.yaml", "    devices: 2\n" + MLP.replace("30", "5000"), MLP)
    assert "up to date" in finished.run("dvc", "status", "train@digits-mlp", "evaluate@digits-mlp").stdout


def test_an_error_is_told_once(finished: Project) -> None:
    finished.edit("params.yaml", MLP, "    devices: 2\n" + MLP.replace("0.1", "1.0e+38"))
    done = finished.stage("train@digits-mlp", check=False)
    assert done.returncode == 1
    assert done.stdout.count("the loss is nan; likely a learning rate (optimizer.lr, now 1e+38)") == 1
    assert "Traceback" not in done.stdout


def train_with_batch_norm(rank: int, meeting: str) -> None:
    """Trains in one of two processes; its model must have the held-out loss of the last epoch."""
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    torch.manual_seed(0)
    inputs, targets = torch.randn(60, 4), torch.randint(2, (60,))
    train, held_out = (
        Split(name, inputs[part], targets[part], 1.0, torch.contiguous_format)
        for name, part in (("train", slice(40)), ("validation", slice(40, 60)))
    )
    model, criterion = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), Criterion(nn.CrossEntropyLoss(), ("a", "b"))
    state = State(model, torch.optim.SGD(model.parameters(), 0.1))
    (epoch,) = fit(state, train, held_out, criterion, FitOptions(1, 10, ranks=Ranks(rank, 2)))
    alone, _ = evaluate_split(model, held_out, criterion, 10)
    assert epoch.metrics["validation/loss"] == pytest.approx(alone["validation/loss"], abs=1e-6)
    distributed.destroy_process_group()


def test_all_processes_measure_the_model_that_is_kept(tmp_path: Path) -> None:
    """On the CPU each has seen its own share, and BatchNorm the statistics of that share."""
    multiprocessing.spawn(train_with_batch_norm, (str(tmp_path / "meeting"),), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
