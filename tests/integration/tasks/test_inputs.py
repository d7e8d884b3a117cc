"""Code and data of a user's that no stage depends on: refused by `check` and `dvc repro`, tracked once it is listed."""

from __future__ import annotations

import ast
import threading
import time
from contextlib import suppress

from tasks.inputs import helpers
from tests.support.project import TRACKWAY, Project

WIDE = """
from typing import TYPE_CHECKING

import torch
from torch import nn

import layers.names as names
from learn.errors import ParamsError
from learn.models.line import Line
from . import parts

if TYPE_CHECKING:
    from learn.data.source import Source


class Wide(parts.Wide):
    pass
"""
PARTS = """
import torch
from torch import nn


class Wide(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], output_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, output_size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)
"""
POINTS = """
from dataclasses import dataclass

import numpy as np

from learn.data.source import Generated


@dataclass(frozen=True)
class Points(Generated):
    file: str

    @property
    def sizes(self) -> tuple[int, int]:
        return 8, 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (1,)

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        table = np.loadtxt(self.file, delimiter=",", dtype=np.float32)
        return table[:, :1], table[:, 1:]
"""
SECTION = """  points:
    source: {name: points, file: points.csv}
    split: {test: 0.25, shuffle: true, seed: 1}
    transform: {}
    champion: {metric: mae}
"""


def add_points(project: Project) -> None:
    (project.folder / "learn/data/datasets/points.py").write_text(POINTS)
    with (project.folder / "learn/data/datasets/__init__.py").open("a") as stream:
        stream.write('\nfrom learn.data.datasets.points import Points\n\nDATASETS["points"] = Points\n')


def refused(project: Project, *command: str) -> str:
    done = project.run(*command, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    return done.stdout


def test_code_that_a_model_imports_must_be_listed_and_then_makes_its_stages_stale(finished: Project) -> None:
    models = finished.folder / "learn/models"
    (models / "wide.py").write_text(WIDE)
    (models / "parts.py").write_text(PARTS)
    (finished.folder / "layers").mkdir()
    (finished.folder / "layers/names.py").write_text("import learn.models.parts\n")
    finished.edit(
        "learn/models/__init__.py", "from learn.models.mlp", "from learn.models.wide import Wide\nfrom learn.models.mlp"
    )
    finished.edit("learn/models/__init__.py", '    "line": Line,', '    "line": Line,\n    "wide": Wide,')
    finished.edit("params.yaml", "{name: mlp, hidden_units: [64], activation: ReLU}", "{name: wide}")
    for command in ((*TRACKWAY, "check"), ("dvc", "repro", "train@digits-mlp")):
        shown = refused(finished, *command)
        for line, file in ((7, "layers/names.py"), (9, "learn/models/line.py"), (10, "learn/models/parts.py")):
            assert (
                f"error: learn/models/wide.py, line {line}, imports {file}, which is no dependency of train and "
                "evaluate in dvc.yaml: a change of it would go unseen. Write what is needed into learn/models/wide.py, "
                f"or list {file} there below deps of train and evaluate"
            ) in shown
        assert "layers/names.py, line 1, imports learn/models/parts.py" in shown
        assert shown.count("would go unseen") == 4, "errors.py cannot matter, nor what only a type checker reads"

    finished.edit("learn/models/wide.py", "from learn.models.line import Line\n", "")
    graph, listed = finished.read("dvc.yaml"), "        - learn/models/${item.model.name}.py\n"
    assert graph.count(listed) == 2
    listing = graph.replace(listed, f"        - layers\n        - learn/models/parts.py\n{listed}")
    (finished.folder / "dvc.yaml").write_text(listing)
    finished.run(*TRACKWAY, "check")
    finished.run("dvc", "repro", "train@digits-mlp")
    assert "up to date" in finished.run("dvc", "status", "train@digits-mlp").stdout
    finished.edit("learn/models/parts.py", "nn.Flatten()", "nn.Flatten(1)")
    assert "learn/models/parts.py" in finished.run("dvc", "status", "train@digits-mlp").stdout


def test_a_file_that_a_dataset_opens_must_be_listed_and_then_makes_its_stages_stale(project: Project) -> None:
    where = "mine/points.csv"
    file = project.folder / where
    file.parent.mkdir()
    file.write_text("".join(f"{x},{2 * x}\n" for x in range(8)))
    add_points(project)
    project.edit("params.yaml", "datasets:\n", f"datasets:\n{SECTION.replace('points.csv', where)}")
    project.edit("params.yaml", "dataset: line\n", "dataset: points\n")
    shown = refused(project, "dvc", "repro", "download@points")
    assert (
        f"error: datasets.points.source opens {where}, which is no dependency of download in dvc.yaml: a change of it "
        "would go unseen. List it there below deps of download"
    ) in shown
    assert not (project.folder / "data/raw/points").exists()

    project.edit("dvc.yaml", "        - tasks/download.py\n", "        - mine\n        - tasks/download.py\n")
    project.run("dvc", "repro", "split@points")
    assert "up to date" in project.run("dvc", "status", "split@points").stdout
    file.write_text(file.read_text().replace("7,14", "7,15"))
    assert "download@points" in project.run("dvc", "status", "download@points").stdout


def test_a_dataset_that_is_not_what_its_class_says_is_refused_before_it_is_used(project: Project) -> None:
    file = project.folder / "points.csv"
    file.write_text("".join(f"{x},{2 * x}\n" for x in range(8)))
    add_points(project)
    project.edit("params.yaml", "datasets:\n", f"datasets:\n{SECTION}")
    project.edit("params.yaml", "dataset: line\n", "dataset: points\n")
    project.edit("dvc.yaml", "        - tasks/download.py\n", "        - points.csv\n        - tasks/download.py\n")
    whole = file.read_text()
    source = "error: datasets.points.source: Points"
    for content, message in (
        (
            whole + "8,16\n",
            f"{source} gives 9 inputs and 9 targets; its property sizes says 8 samples, and must be the",
        ),
        (whole.replace("3,6", "nan,6"), f"{source}: 1 of the inputs are NaN or infinite, the first in sample 3[0] (co"),
        (whole.replace(",", ",1,"), f"{source} gives inputs of the shape (2,); its property shape says (1,)"),
    ):
        file.write_text(content)
        if ",1," in content:
            project.edit("learn/data/datasets/points.py", "table[:, :1], table[:, 1:]", "table[:, :2], table[:, 2:]")
        assert message in refused(project, "dvc", "repro", "download@points")
    file.write_text(whole.replace("3,6", "3,six"))
    done = project.run("dvc", "repro", "download@points", check=False)
    assert (
        "error: datasets.points.source in params.yaml: its class failed in the stage download, see the lines"
        in done.stdout
    )
    assert "could not convert string 'six' to float32" in done.stdout
    assert not (project.folder / "data/raw/points").exists()


def test_files_are_read_while_another_thread_makes_syntax_trees() -> None:
    """As Prefect's event loop does in a flow. Python 3.11 mixes them up if its garbage collector comes between."""

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            time.sleep(0)  # lets the other thread go on

    done = threading.Event()

    def make_trees() -> None:
        while not done.is_set():
            with suppress(SystemError):
                ast.parse("def f(a, b=1): pass")

    other = threading.Thread(target=make_trees)
    other.start()
    try:
        for _ in range(30):
            Cycle()
            assert not helpers()
    finally:
        done.set()
        other.join()
