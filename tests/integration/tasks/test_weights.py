"""Pretrained weights: found, checked, refused, and trained on."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from learn.errors import DownloadError
from learn.models.blocks.weights import Weights
from tasks.weights import bring_weights
from tests.support.project import TRACKWAY, Project, make_project

LITE0 = "tf_efficientnet_lite0.safetensors"
PHOTOS = 75  # in the test part


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder, with a mirror beside it."""
    (tmp_path / "mirror/weights").mkdir(parents=True)
    (tmp_path / "mirror/weights/a.pth").write_bytes(b"weights")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


RIGHT = Weights("a.pth", hashlib.sha256(b"weights").hexdigest()[:8])


def test_weights_come_from_a_mirror_or_a_path_and_stay(here: Path) -> None:
    file = bring_weights("one", RIGHT, f"{here}/mirror")
    assert file.read_bytes() == b"weights"
    assert bring_weights("one", RIGHT, None) == file, "nothing is asked for what is there"
    file.write_bytes(b"damaged")
    from_path = Weights(RIGHT.file, RIGHT.sha256, f"{here}/mirror/weights/a.pth")
    assert bring_weights("one", from_path, "/nowhere").read_bytes() == b"weights"


def test_weights_that_cannot_be_had_are_told_with_what_to_do(here: Path) -> None:
    with pytest.raises(DownloadError) as refused:
        bring_weights("one", RIGHT, None)
    assert str(refused.value) == (
        f"one: no source gave a.pth with the sha256 {RIGHT.sha256}. Tried:\n"
        "  nothing, for it has no source, and no mirror is set\n"
        "To provide it by hand: put a.pth into FOLDER/weights/, set DATA_MIRROR=FOLDER (or mirror: in params.yaml), "
        "and run this again."
    )
    with pytest.raises(DownloadError, match=f"the file has the sha256 {RIGHT.sha256}.*, not 01234567"):
        bring_weights("one", Weights("a.pth", "01234567"), f"{here}/mirror")
    assert not [path for path in Path("data").rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def transfer(mirror: Path, tmp_path_factory: pytest.TempPathFactory, warm_socket: str) -> Project:
    """`trackway add transfer`, and its frozen network trained."""
    project = make_project(tmp_path_factory.mktemp("transfer") / "project")
    text = project.read("params.yaml")
    (project.folder / "params.yaml").write_text(text.partition("\ndatasets:")[0] + "\ndatasets: {}\nexperiments: {}\n")
    project.run(*TRACKWAY, "add", "transfer")
    project.run("dvc", "repro", "train@transfer-lite0", DATA_MIRROR=str(mirror))
    return project


def test_a_frozen_network_with_a_new_head_knows_nearly_all_photos(transfer: Project) -> None:
    """A linear layer on frozen features was seen to get 70 to 72."""
    with (transfer.folder / "plots/history/transfer-lite0.csv").open(newline="") as stream:
        epochs = list(csv.DictReader(stream))
    assert len(epochs) == 5
    assert round(PHOTOS * float(epochs[-1]["test/accuracy"])) >= 69


def test_the_stage_changes_no_frozen_tensor_by_a_bit(transfer: Project, mirror: Path) -> None:
    trained = torch.load(transfer.folder / "models/transfer-lite0/model.pt", weights_only=True)
    given = load_file(mirror / "weights" / LITE0)
    frozen = {name.removeprefix("backbone."): value for name, value in trained.items() if name.startswith("backbone.")}
    assert {name for name in given if name not in frozen} == {"classifier.weight", "classifier.bias"}
    for name, value in frozen.items():
        if not name.endswith("num_batches_tracked"):
            assert value.numpy().tobytes() == given[name].numpy().tobytes(), name
        else:
            assert value == 0, name


def test_a_lost_store_is_rebuilt_without_the_weights(transfer: Project) -> None:
    transfer.run("dvc", "repro", "--single-item", "evaluate@transfer-lite0", check=True)
    shutil.rmtree(transfer.folder / "mlruns")
    shutil.rmtree(transfer.folder / "data/raw/_weights")
    told = transfer.run(*TRACKWAY, "relog", DATA_MIRROR="/nowhere").stdout
    assert "relog transfer-lite0: rebuilt" in told
    assert "relog transfer-tinyvgg: left out, " in told


def test_other_weights_are_another_training(transfer: Project) -> None:
    """And without them the stage says what to do; those of before are in the cache."""
    assert "up to date" in transfer.run("dvc", "status", "train@transfer-lite0").stdout
    params = transfer.read("params.yaml")
    transfer.edit("params.yaml", "sha256: 384371db", "sha256: 00000000")
    status = json.loads(transfer.run("dvc", "status", "--json", "train@transfer-lite0").stdout)
    assert list(status) == ["train@transfer-lite0"]
    assert "experiments.transfer-lite0" in str(status)
    shown = transfer.run("dvc", "repro", "train@transfer-lite0", check=False, DATA_MIRROR="/nowhere").stdout
    assert f"error: transfer-lite0: no source gave {LITE0} with the sha256 00000000" in shown
    assert f"/nowhere/weights/{LITE0}: FileNotFoundError" in shown
    (transfer.folder / "params.yaml").write_text(params)
    log = transfer.run("dvc", "repro", "train@transfer-lite0", DATA_MIRROR="/nowhere").stdout
    assert "Stage 'train@transfer-lite0' is cached" in log
