"""What a project's datasets are called in MLflow, and that nothing else makes such a name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.params import parse_params, read_yaml
from tasks.tracking.names import Store, store_in
from tests.support.project import ROOT

SHIPPED = ROOT / "params.yaml"
# The methods of MLflow's client whose first argument is the name of an experiment or of a registered model.
BY_NAME = {
    "get_experiment_by_name", "create_experiment", "get_registered_model", "create_registered_model",
    "rename_registered_model", "set_registered_model_alias", "delete_registered_model_alias",
    "set_registered_model_tag", "delete_registered_model_tag", "get_model_version", "create_model_version",
    "update_model_version", "set_model_version_tag", "delete_model_version_tag", "get_model_version_by_alias",
}  # fmt: skip


@pytest.mark.parametrize(("project", "name"), [(None, "digits"), ("vision", "vision.digits")])
def test_a_dataset_has_its_project_s_name_in_mlflow(project: str | None, name: str) -> None:
    store = Store("sqlite:///x", project)
    assert store.name("digits") == name
    assert store.owns(name)
    assert store.dataset(name) == "digits"


def test_the_names_of_other_projects_are_not_its_own() -> None:
    store = Store("sqlite:///x", "vision")
    assert not any(map(store.owns, ("digits", "vision", "vision-digits", "vision2.digits", "audio.vision.digits")))


def test_params_yaml_names_the_project_or_none() -> None:
    data = read_yaml(SHIPPED)
    assert store_in(parse_params(data, SHIPPED)) == Store(data["tracking"], None)
    assert store_in(parse_params(data | {"project": "vision"}, SHIPPED)) == Store(data["tracking"], "vision")
    assert store_in(parse_params(data | {"tracking": None, "project": "vision"}, SHIPPED)) is None


def test_no_stage_depends_on_it() -> None:
    stages = read_yaml(ROOT / "dvc.yaml")["stages"].values()
    keys = {key.partition(".")[0] for stage in stages for key in stage["do"].get("params", ())}
    assert {"experiments", "datasets"} <= keys
    assert not {"project", "tracking"} & keys


def names(arguments: ast.arguments, body: ast.AST) -> Iterator[str]:
    """The variables of a function that hold a name in MLflow: by their type, or made by `store.name`."""
    yield from (each.arg for each in arguments.args if each.annotation and ast.unparse(each.annotation) == "MlflowName")
    for node in ast.walk(body):
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("store.name("):
            yield ast.unparse(node.targets[0])


def calls(function: ast.FunctionDef) -> Iterator[str]:
    """The first argument of each call by a name, as text."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            called, *arguments = (node.func, *node.args) if ast.unparse(node.func) != "partial" else node.args
            if isinstance(called, ast.Attribute) and called.attr in BY_NAME:
                yield ast.unparse(arguments[0])


def test_mlflow_is_asked_by_no_other_name() -> None:
    """The type checker knows which names may be given to a function; MLflow's own functions take any text."""
    found = 0
    for path in (ROOT / "tasks/tracking").glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                known = {*names(function.args, function), "version.name"}
                for name in calls(function):
                    found += 1
                    assert name in known or ".name(" in name.replace("_store.", "."), f"{path}: {name}"
    assert found > 20


def test_no_other_file_makes_such_a_name() -> None:
    makes = re.compile(r"\bMlflowName\(|\bSEPARATOR\b|project\}")
    files = [path for layer in ("learn", "tasks", "web", "flows") for path in (ROOT / layer).rglob("*.py")]
    found = [path.relative_to(ROOT) for path in files if makes.search(path.read_text(encoding="utf-8"))]
    assert found == [Path("tasks/tracking/names.py")]
