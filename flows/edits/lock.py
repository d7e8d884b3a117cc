"""Reads and writes dvc.lock, and changes its entries for a renaming."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvc.utils.serialize import dumps_yaml

from flows.graph import KINDS
from tasks.params import Params, read_yaml
from tasks.workspace import paths
from tasks.workspace.files import sha256_of, write_atomically

DVC_LOCK = Path("dvc.lock")


def read_lock() -> dict[str, Any]:
    """Returns the content of dvc.lock; an empty one if nothing has run."""
    lock = read_yaml(DVC_LOCK) if DVC_LOCK.is_file() else None
    return lock or {"schema": "2.0", "stages": {}}


def write_lock(stages: dict[str, Any], lock: dict[str, Any]) -> None:
    """Replaces the stages of dvc.lock.

    Args:
        stages: Name → entry.
        lock: The content as it was read.
    """
    if DVC_LOCK.is_file():
        write_atomically(DVC_LOCK, dumps_yaml({**lock, "stages": stages}).encode())


@dataclass
class Move:
    """What a renaming changes in the entries of dvc.lock, and which outputs it moves.

    The outputs of evaluate and register contain the name, so these stages run again. Other outputs keep their bytes.
    """

    params: Params
    section: str
    old: str
    new: str
    folders: dict[Path, Path] = field(init=False)  # outputs to move: old path → new path
    again: set[str] = field(init=False)  # names of the stages that run again

    def __post_init__(self) -> None:
        places = {
            "experiments": (paths.models_folder, paths.history_file),
            "datasets": (paths.raw_folder, paths.split_folder, paths.transformed_folder),
        }[self.section]
        self.folders = {place(self.old): place(self.new) for place in places}
        self._paths = {before.as_posix(): after.as_posix() for before, after in self.folders.items()}
        of_dataset = self.params.experiments_of(self.old) if self.section == "datasets" else [self.old]
        self.again = {f"evaluate@{name}" for name in of_dataset}
        if self.section == "datasets":
            self.again.add(f"register@{self.old}")
        self._renamed = {f"{kind}@{self.old}": f"{kind}@{self.new}" for kind, of in KINDS.items() if of == self.section}

    def state_dicts(self) -> list[str]:
        """Returns a list with the sha256 of the experiment's state_dict; empty if it was not trained."""
        files = paths.state_dict_files(paths.models_folder(self.old))
        trained = self.section == "experiments" and all(file.is_file() for file in files)
        return [sha256_of(files)] if trained else []

    def renamed(self, stages: dict[str, Any]) -> dict[str, Any]:
        """Returns the stages of dvc.lock as they are after the renaming."""
        return {
            self._renamed.get(name, name): self._entry(name, entry)
            for name, entry in stages.items()
            if name not in self.again
        }

    def _entry(self, name: str, entry: dict[str, Any]) -> dict[str, Any]:
        if name not in self._renamed and not (self.section == "datasets" and name.startswith("train@")):
            return entry
        found = dict(entry)
        for kind in ("deps", "outs"):
            if kind in entry:
                items = [{**item, "path": self._path(item["path"])} for item in entry[kind]]
                found[kind] = sorted(items, key=lambda item: item["path"])
        if "params" in entry:
            found["params"] = {file: self._values(values) for file, values in entry["params"].items()}
        return found

    def _path(self, path: str) -> str:
        """Returns the new path of an output or dependency, which may be in a folder that is moved."""
        for before, after in self._paths.items():
            if path == before or path.startswith(f"{before}/"):
                return after + path.removeprefix(before)
        return path

    def _values(self, values: dict[str, Any]) -> dict[str, Any]:
        start = f"{self.section}.{self.old}"
        found = {}
        for key, value in sorted(values.items()):
            if key == start or key.startswith(f"{start}."):
                key = f"{self.section}.{self.new}{key.removeprefix(start)}"
            if self.section == "datasets" and key.startswith("experiments.") and value.get("dataset") == self.old:
                value = {**value, "dataset": self.new}
            found[key] = value
        return dict(sorted(found.items()))
