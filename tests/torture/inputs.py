"""Hostile inputs: the tests of test_inputs.py, run once and counted."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import pytest

from tests.support.project import ROOT
from tests.torture import test_inputs
from tests.torture.common import Ground, Lost, Scenario, tail


def trial(name: str, ground: Ground, random: Random) -> None:
    report = ground.folder / "inputs.xml"
    if not report.is_file():
        run(report)
    cases = [case for case in ElementTree.parse(report).iter("testcase") if case.get("name", "").split("[")[0] == name]
    if failures := [child.text or "" for case in cases for child in case if child.tag in ("failure", "error")]:
        raise Lost("\n".join(map(tail, failures)))
    if not cases:
        raise Lost("it was not run")
    if all(case.find("skipped") is not None for case in cases):
        pytest.skip("by the test")


def run(report: Path) -> None:
    file = str(test_inputs.__file__)
    command = [sys.executable, "-m", "pytest", "-q", file, f"--junitxml={report}", f"--basetemp={report.parent}/inputs"]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def sentence(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


TESTS = [name for name in vars(test_inputs) if name.startswith("test_")]
SCENARIOS = [Scenario(sentence(name), 1, partial(trial, name)) for name in TESTS]
