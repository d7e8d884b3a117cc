"""Values that are written into params.yaml."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

import pytest

from flows.edits.values import set_values
from learn.errors import ParamsError
from tasks.params import read_yaml
from tests.support.project import ROOT


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def test_only_the_lines_with_the_values_change(params: Path) -> None:
    before = params.read_text()
    values = {"optimizer.lr": 1.2e-05, "model.hidden_units": [32, 16], "scheduler": {"name": "StepLR", "step_size": 10}}
    assert set_values(params, "digits-mlp", values)
    changes = [line for line in difflib.ndiff(before.splitlines(), params.read_text().splitlines()) if line[0] in "+-"]
    assert changes == [
        "-     model: {name: mlp, hidden_units: [64], activation: ReLU}",
        "+     model: {name: mlp, hidden_units: [32, 16], activation: ReLU}",
        "-     optimizer: {name: SGD, lr: 0.1}",
        "+     optimizer: {name: SGD, lr: 1.2e-05}",
        "+     scheduler: {name: StepLR, step_size: 10}",
    ]
    assert read_yaml(params)["experiments"]["digits-mlp"]["optimizer"]["lr"] == 1.2e-05
    assert not set_values(params, "digits-mlp", values), "the second time there is nothing to write"


def test_a_value_that_is_not_allowed_changes_nothing(params: Path) -> None:
    before = params.read_text()
    with pytest.raises(ParamsError, match=r"digits-mlp\.optimizer\.lr is -1\.0; it must be > 0"):
        set_values(params, "digits-mlp", {"optimizer.lr": -1.0})
    assert params.read_text() == before


def test_an_experiment_that_shares_its_lines_is_not_changed(params: Path) -> None:
    text = params.read_text().replace("optimizer: {name: SGD, lr: 0.01}", "optimizer: &sgd {name: SGD, lr: 0.01}", 1)
    text = text.replace("optimizer: {name: SGD, lr: 0.1}", "optimizer: *sgd", 1)
    params.write_text(text)
    with pytest.raises(ParamsError, match=r"experiments\.line-parameters cannot be changed in .* by itself: it shares"):
        set_values(params, "line-parameters", {"optimizer.lr": 0.5})
    assert params.read_text() == text
