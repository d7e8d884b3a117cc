"""Imports point one way, flows → web → tasks → learn; and learn/ is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import ROOT

ALLOWED = {
    "learn": {"learn"},
    "tasks": {"tasks", "learn"},
    "web": {"web", "tasks", "learn"},
    "flows": {"flows", "web", "tasks", "learn"},
}
LAYERS = set(ALLOWED)
LIGHT = {"torch", "torchvision", "numpy", "scipy", "sklearn", "PIL", "matplotlib", "tqdm"}
MORE = {
    "archives.py": {"backports"},  # imported before Python 3.11.4 only
    "table.py": {"pyarrow"},  # when a table is read
    "timm.py": {"timm"},  # when such a model is built
    "weights.py": {"safetensors"},  # when such a file is read
    "yardsticks.py": {"threadpoolctl"},  # comes with scikit-learn
}


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_imports_point_one_way(layer: str) -> None:
    for path in (ROOT / layer).rglob("*.py"):
        assert imported(path) & LAYERS <= ALLOWED[layer], path


def test_learn_needs_little() -> None:
    for path in (ROOT / "learn").rglob("*.py"):
        foreign = imported(path) - LIGHT - MORE.get(path.name, set()) - LAYERS - sys.stdlib_module_names
        assert not foreign, f"{path} imports {foreign}"


def test_only_params_knows_pydantic() -> None:
    """Prefect brings it along: flows/ may know it."""
    for layer in ("learn", "tasks"):
        for path in (ROOT / layer).rglob("*.py"):
            assert "pydantic" not in imported(path) or path.parent.name == "params", path


def test_only_tracking_and_the_guard_of_its_server_know_mlflow() -> None:
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            assert "mlflow" not in imported(path) or path.parent.name == "tracking" or path.name == "guard.py", path


def test_the_loop_runs_where_pydantic_is_not_installed() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['pydantic', 'ruamel', 'mlflow', 'prefect', 'dvc']))\n"
        "import learn.data.datasets, learn.data.transformed, learn.models, learn.training.loop, learn.training.build\n"
        "import learn.training.splits, learn.training.augment, learn.evaluation.metrics, learn.plots"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
