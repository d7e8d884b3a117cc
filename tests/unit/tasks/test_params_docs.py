"""docs/parameters.md and params.schema.json say what the classes in tasks/params/ say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.params import parse_params, read_yaml
from tasks.params.describe import PAGE_FILE, SCHEMA_FILE, schema, write
from tests.support.project import ROOT

FILES = [ROOT / "params.yaml", *sorted((ROOT / "catalog").glob("*.yaml"))]
NEXT = "run python -m tasks.params.describe (or make docs)"


@pytest.fixture(scope="module")
def errors() -> Any:
    """A function: params.yaml as data → what the schema finds wrong with it."""
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft7Validator(schema())
    return lambda data: [f"{error.json_path}: {error.message}" for error in validator.iter_errors(data)]


def with_shipped_settings(file: Path) -> Any:
    """An entry of the catalog has no run-wide keys: it gets those of the shipped file."""
    return read_yaml(ROOT / "params.yaml") | read_yaml(file)


def test_the_committed_files_are_those_that_are_generated(tmp_path: Path) -> None:
    (tmp_path / PAGE_FILE).parent.mkdir()
    write(tmp_path)
    for file in (PAGE_FILE, SCHEMA_FILE):
        assert (ROOT / file).read_text("utf-8") == (tmp_path / file).read_text("utf-8"), f"{file} is old: {NEXT}"


def test_every_key_has_a_description() -> None:
    mappings = schema()["$defs"] | {"Params": schema()}
    sources = {
        choice["$ref"].rpartition("/")[2] for choice in mappings["DatasetConfig"]["properties"]["source"]["oneOf"]
    }
    for name, mapping in mappings.items():
        assert name in sources or all("description" in field for field in mapping["properties"].values()), name


def test_params_yaml_names_the_schema_in_its_first_line() -> None:
    first = (ROOT / "params.yaml").read_text(encoding="utf-8").partition("\n")[0]
    assert first == f"# yaml-language-server: $schema={SCHEMA_FILE}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_shipped_is_valid(file: Path, errors: Any) -> None:
    data = with_shipped_settings(file)
    parse_params(data, file)
    assert errors(data) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["devise"], "cpu"),
        (["device"], "cuda:x"),
        (["tracking"], "mlruns"),
        (["datasets", "digits", "source", "name"], "digit"),
        (["datasets", "line", "source", "colour"], "red"),
        (["datasets", "digits", "split", "test"], 1.5),
        (["datasets", "a b"], {}),
        (["experiments", "digits-mlp", "epochs"], 0),
        (["experiments", "digits-mlp", "batch_size"], "all"),
        (["experiments", "digits-mlp", "optimizer", "lr"], "0.1"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_found_by_the_schema_and_by_the_classes(path: list[str], value: Any, errors: Any) -> None:
    data = json.loads(json.dumps(read_yaml(ROOT / "params.yaml")))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert errors(data)
    with pytest.raises(Exception, match=rf"{path[0]}\b"):
        parse_params(data, Path("params.yaml"))
