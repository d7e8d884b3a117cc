"""Finds in dvc.lock, as it is or as a commit has it, which stage made a file or folder, and what came from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.edits.lock import DVC_LOCK, read_lock
from tasks.workspace.git import commit_with, file_at
from tasks.workspace.report import STATE_DICT_KEY


@dataclass(frozen=True)
class DataVersion:
    """A file or folder with the content that a dvc.lock has for it."""

    path: str
    md5: str
    stage: str  # the stage that made it
    reads: dict[str, str]  # path → md5 of the data that this stage read
    stages: dict[str, Any]  # all entries of that dvc.lock
    commit: str | None  # the commit of that dvc.lock; None for the present one

    @property
    def experiment(self) -> str:
        """The experiment whose training or evaluation made it; "" if it is made before any training."""
        kind, _, name = self.stage.partition("@")
        return name if kind in ("train", "evaluate") else ""

    def state_dict(self) -> str | None:
        """Returns the sha256 of the state_dict that it is, or was measured with; None if that is not known any more."""
        outs = _md5s(self.stages.get(f"evaluate@{self.experiment}", {}), "outs")
        report = next((Path(path) for path in outs if path.endswith(".report.json")), None)
        if self.commit or report is None or not report.is_file():
            return None
        return json.loads(report.read_bytes())[STATE_DICT_KEY]

    def descendants(self) -> dict[str, str]:
        """Returns path → md5 of itself and of all that stages made from it, directly or not."""
        found, size = {self.path: self.md5}, 0
        while len(found) > size:
            size = len(found)
            for entry in self.stages.values():
                if any(_touches(path, found) for path in _md5s(entry, "deps")):
                    found |= _md5s(entry, "outs")
        return found

    def how_to_get(self) -> str:
        """Returns the commands that bring it back."""
        with Repo() as repo:
            cached = repo.cache.local.exists(self.md5)
        fetch = f"dvc {'checkout' if cached else 'pull'} {self.path}"
        return f"git checkout {self.commit}, then {fetch}" if self.commit else fetch


def version_at(path: str) -> DataVersion | None:
    """Returns what the present dvc.lock has for a path, or for the folder that it is in; None if no stage made it."""
    return _found(_present(), None, lambda out, _: path == out or path.startswith(f"{out}/"))


def version_with(md5: str) -> DataVersion | None:
    """Returns the file or folder with an md5, in the present dvc.lock or in that of a commit; None if there is none.

    Args:
        md5: With or without the `.dir` that DVC appends for a folder.
    """
    plain = md5.removesuffix(".dir")
    stages = _present()
    if found := _found(stages, None, lambda _, other: other.removesuffix(".dir") == plain):
        return found
    commit = commit_with(plain, DVC_LOCK.as_posix())
    try:
        stages = _stages(file_at(commit, DVC_LOCK.as_posix())) if commit else {}
    except YAMLError:  # a conflict was committed
        return None
    return _found(stages, commit, lambda _, other: other.removesuffix(".dir") == plain)


def outputs_below(folder: str) -> list[str]:
    """Returns the paths in a folder that stages made, as the present dvc.lock has them."""
    paths = [path for entry in _present().values() for path in _md5s(entry, "outs")]
    return [path for path in paths if path.startswith(f"{folder}/")]


def _present() -> dict[str, Any]:
    """Returns the entries of the present dvc.lock; raises ParamsError with the place of a mistake in it."""
    try:
        return _stages(DVC_LOCK.read_text(encoding="utf-8")) if DVC_LOCK.is_file() else {}
    except YAMLError:
        return read_lock()["stages"]


@lru_cache(maxsize=2)
def _stages(text: str) -> dict[str, Any]:
    """Returns stage → entry of a dvc.lock; its parser in C is five times as fast as the one that names mistakes."""
    return YAML(typ="safe").load(text)["stages"]


def _found(stages: dict[str, Any], commit: str | None, is_it: Callable[[str, str], bool]) -> DataVersion | None:
    for stage, entry in stages.items():
        for path, md5 in _md5s(entry, "outs").items():
            if is_it(path, md5):
                made = {out for each in stages.values() for out in _md5s(each, "outs")}
                reads = {dep: other for dep, other in _md5s(entry, "deps").items() if _touches(dep, made)}
                return DataVersion(path, md5, stage, reads, stages, commit)
    return None


def _md5s(entry: dict[str, Any], kind: str) -> dict[str, str]:
    """Returns path → md5 of a stage's `deps` or `outs`."""
    return {each["path"]: each["md5"] for each in entry.get(kind, []) if "md5" in each}


def _touches(path: str, made: Iterable[str]) -> bool:
    """Returns whether a path is one of others, lies in one of them, or has one of them in it."""
    return any(path == each or path.startswith(f"{each}/") or each.startswith(f"{path}/") for each in made)
