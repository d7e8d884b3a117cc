"""The files for GitHub and pre-commit can be read, and the make targets that are named are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support.project import ROOT

PARSED = [ROOT / ".pre-commit-config.yaml", *sorted((ROOT / ".github").rglob("*.yml"))]
# `make lint`, run: make --keep-going lint test-fast
COMMAND = re.compile(r"(?:^|[`:&]) *make((?: [a-z-]+)+)", re.MULTILINE)


@pytest.mark.parametrize("file", PARSED, ids=lambda file: file.name)
def test_it_is_yaml(file: Path) -> None:
    assert isinstance(YAML(typ="safe").load(file), dict)


@pytest.mark.parametrize(
    "file", [".github/workflows/tests.yml", ".ci/run", "CONTRIBUTING.md", ".pre-commit-config.yaml"]
)
def test_the_make_targets_it_names_are_there(file: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    words = " ".join(COMMAND.findall((ROOT / file).read_text(encoding="utf-8"))).split()
    named = {word for word in words if not word.startswith("-")}
    assert named
    assert named <= set(targets)


def test_internals_names_functions_and_tests_that_are_there() -> None:
    rows = re.findall(
        r"^\| `(\w+)` in `([\w/.]+)` \|.*\| `([\w/.]+)` \|",
        (ROOT / "docs/internals.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert len(rows) > 10
    for function, file, tests in rows:
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {function}"
        assert (ROOT / tests).is_file(), tests
