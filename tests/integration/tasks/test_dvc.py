"""What this project replaces in DVC gives the same as DVC's own, sooner."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from dvc import dvcfile
from dvc.fs import LocalFileSystem
from dvc.utils import serialize

from tasks.atomic_dvc import parse_once, replace_lock_writer
from tasks.lock_entries import Entries
from tests.support.project import Project

ODD = {
    "none": None, "list": [None, 1, {"key": "é → x"}], "small": 1e-05, "float": 0.1, "yes": "yes", "on": True,
    "empty": "", "colon": "a: b", "hash md5": "0x1", "number": "12", "long": "word " * 40, "lines": "one\ntwo\n",
    "ends": "colon: ",
}  # fmt: skip


def test_dvc_lock_has_the_same_text_as_dvc_writes(
    by_flow: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = dvcfile.modify_yaml
    monkeypatch.setattr(dvcfile, "modify_yaml", slow)  # to be put back
    replace_lock_writer()
    texts = {}
    for name, modify in (("slow", slow), ("fast", dvcfile.modify_yaml)):
        file = tmp_path / name / "dvc.lock"
        file.parent.mkdir()
        file.write_text(by_flow.read("dvc.lock"), encoding="utf-8")
        with modify(str(file), fs=LocalFileSystem()) as data:
            del data["stages"]["split@line"]
            data["stages"]["odd"] = OrderedDict(params=ODD, cmd='python -m tasks.train "$DVC_STAGE"')
        texts[name] = file.read_text(encoding="utf-8")
    assert texts["fast"] == texts["slow"]
    assert dvcfile.modify_yaml is not slow


def test_a_dvc_lock_that_dvc_did_not_write_is_parsed_as_a_whole(by_flow: Project) -> None:
    text = by_flow.read("dvc.lock")
    assert str(Entries(text)) == text
    assert dict(Entries(text)) == serialize.parse_yaml(text, "dvc.lock")["stages"]
    entry = text[text.index("  split@line:\n") : text.index("  transform@line:\n")]
    for other in (
        "",
        text.replace("  split@line:\n", "  split@line: # mine\n"),
        text + entry,
        text + "datasets: []\n",
        text.replace("stages:\n", "<<<<<<< ours\nstages:\n"),
        text.replace("    cmd: ", "   cmd: ", 1),
    ):
        assert other != text
        with pytest.raises(ValueError, match="that DVC did not write"):
            Entries(other)


def test_a_yaml_file_is_parsed_again_once_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    read = serialize.load_yaml

    def noted(path: str, fs: LocalFileSystem | None = None) -> Any:
        parsed.append(path)
        return read(path, fs)

    monkeypatch.setattr(serialize, "load_yaml", noted)
    monkeypatch.setitem(serialize.LOADERS, ".yaml", read)
    parse_once()
    file = tmp_path / "params.yaml"
    file.write_text("a: {b: 1}\n")
    first, second = (serialize.load_path(str(file), LocalFileSystem()) for _ in range(2))
    first["a"]["b"] = 2
    assert second == {"a": {"b": 1}}
    assert len(parsed) == 1
    file.write_text("a: {b: 3}\n")
    assert serialize.load_path(str(file), LocalFileSystem()) == {"a": {"b": 3}}
    assert len(parsed) == 2
