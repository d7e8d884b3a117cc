"""The committed dvc.lock belongs to the committed code and parameters."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML

from tests.conftest import ROOT, Project


def inputs(lock: str) -> dict[str, Any]:
    """Stage → what it was run with, but for data: floating point differs in the last bits between processors."""
    stages = YAML(typ="safe").load(lock)["stages"]
    return {
        name: {
            "cmd": stage["cmd"],
            "params": stage["params"],
            "code": {dep["path"]: dep["md5"] for dep in stage["deps"] if dep["path"].endswith(".py")},
            "data": [out["md5"] for out in stage["outs"]]
            if name.startswith(("download", "split", "transform"))
            else [],
        }
        for name, stage in stages.items()
    }


def test_the_committed_lock_is_that_of_the_committed_code(by_repro: Project) -> None:
    committed = inputs((ROOT / "dvc.lock").read_text(encoding="utf-8"))
    assert committed == inputs(by_repro.read("dvc.lock")), "run `dvc repro` and commit dvc.lock"
