"""The numbers that the course prints come out, to the last printed digit."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.support.project import Project

NUMBERS = json.loads((Path(__file__).parent / "numbers.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(NUMBERS["state_dict"]))
def test_the_line_ends_where_the_course_s_does(by_repro: Project, name: str) -> None:
    state_dict = torch.load(by_repro.folder / "models" / name / "model.pt", weights_only=True)
    assert {key: round(value.item(), 4) for key, value in state_dict.items()} == NUMBERS["state_dict"][name]


def test_the_chapter_on_classification_goes_as_the_course_says(by_repro: Project) -> None:
    metrics = {
        path.stem: json.loads(path.read_bytes())
        for path in (by_repro.folder / "metrics").rglob("*.json")
        if "report" not in path.name
    }
    assert abs(metrics["circles-linear"]["accuracy"] - 0.5) < 0.05  # a straight boundary
    assert metrics["circles-relu"]["accuracy"] > 0.8  # a curved one
    assert metrics["blobs-linear"]["accuracy"] >= 0.99


@pytest.fixture(scope="module")
def fashion(by_repro: Project, mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """`trackway add fashion_mnist`, then `dvc repro`, on the real files."""
    folder = tmp_path_factory.mktemp("fashion") / "project"
    shutil.copytree(by_repro.folder, folder, symlinks=True)
    project = Project(folder)
    project.run("python", "-m", "flows.cli", "add", "fashion_mnist")
    log = project.run("dvc", "repro", DATA_MIRROR=str(mirror)).stdout
    ran = [line for line in log.splitlines() if line.startswith("Running stage")]
    assert len(ran) == 5 + 2 * 3, "only the new dataset's stages, and the list of all experiments"
    return project


def last_epoch(project: Project, name: str) -> dict[str, float]:
    with (project.folder / f"plots/history/{name}.csv").open(newline="", encoding="utf-8") as stream:
        return {key: float(value) for key, value in list(csv.DictReader(stream))[-1].items()}


def printed(key: str, value: float) -> str:
    return f"{value:.2%}" if "accuracy" in key else f"{value:.5f}"


@pytest.mark.parametrize("name", sorted(NUMBERS["history"]))
def test_fashion_mnist_gives_the_course_s_digits(fashion: Project, name: str) -> None:
    expected = NUMBERS["history"][name]
    record = last_epoch(fashion, name)
    assert {key: printed(key, record[key]) for key in expected} == expected


def test_tiny_vgg_comes_close_on_any_machine(fashion: Project) -> None:
    for key, (expected, tolerance) in NUMBERS["close"]["fashion-v2"].items():
        assert last_epoch(fashion, "fashion-v2")[key] == pytest.approx(expected, abs=tolerance)


def test_the_stages_of_fashion_mnist_leave_the_project_up_to_date(fashion: Project) -> None:
    assert "up to date" in fashion.run("dvc", "status").stdout
    shown = fashion.run("python", "-m", "flows.cli", "results").stdout
    assert "fashion-v2" in shown
