"""Removes an experiment or a dataset from params.yaml, or renames it, together with what its stages have made.

    trackway remove digits-cnn
    trackway rename digits-mlp digits-wide

`dvc.lock` and the outputs are changed too, so that nothing is trained again. The lines of params.yaml are cut or
changed in place, so its comments and order stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from dvc.lock import LockError
from dvc.rwlock import RWLOCK_FILE
from dvc.utils.serialize import dumps_yaml
from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from flows.graph import FLOW_LOCK, KINDS, Graph
from learn.errors import GraphError, ParamsError, TrackingError, did_you_mean
from tasks.params import PARAMS_FILE, Params, load_params, parse_params, read_yaml
from tasks.stage import checked_params
from tasks.tracking.address import address
from tasks.tracking.rename import rename_dataset, rename_run
from tasks.workspace import paths
from tasks.workspace.files import sha256, write_atomically

DVC_LOCK = Path("dvc.lock")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
SECTIONS = ("experiments", "datasets")


def remove(key: str, *, with_experiments: bool = False) -> str:
    """Removes an experiment or a dataset, with its outputs and its entries in dvc.lock, and returns what was done.

    Args:
        key: NAME, experiments.NAME or datasets.NAME.
        with_experiments: Remove a dataset's experiments, too.

    Raises:
        ParamsError: There is no such entry, or it is still needed; nothing was changed.
        GraphError: DVC or a flow is at work in this folder, or DVC's files have mistakes; nothing was changed.
    """
    with _nobody_else_at_work() as graph:
        params = load_params()
        section, name = _find(params, key)
        names = {section: [name]}
        if section == "experiments":
            dataset = params.experiments[name].dataset
            if params.experiments_of(dataset) == [name]:
                raise ParamsError(
                    [
                        f"experiments.{name} is the only one of {dataset}, and each dataset needs one; "
                        f"next: trackway remove --with-experiments datasets.{dataset}"
                    ]
                )
        else:
            users = params.experiments_of(name)
            if not with_experiments:
                raise ParamsError(
                    [
                        f"datasets.{name} is used by {', '.join(users)}; next: "
                        f"trackway remove --with-experiments {key}, which takes these out, too"
                    ]
                )
            names["experiments"] = users
        _refuse_if_scheduled(params, names)
        text = _Text(PARAMS_FILE)
        for each, found in names.items():
            for entry in found:
                text.cut(each, entry)
        content = text.checked()
        stages = [f"{kind}@{each}" for kind, of in KINDS.items() for each in names.get(of, [])]
        lock = _read_lock()
        # In this order the command can be repeated after a kill; DVC finds the removed outputs in its cache.
        gone, kept = graph.remove_outputs(stages)
        _write_lock({each: entry for each, entry in lock["stages"].items() if each not in stages}, lock)
        write_atomically(PARAMS_FILE, content)
    keys = ", ".join(f"{each}.{entry}" for each, found in names.items() for entry in found)
    lines = [f"taken out: {keys}, with {', '.join(gone) or 'no outputs, for there were none'}"]
    if kept:
        lines.append(f"left there, for DVC's cache does not hold them: {', '.join(kept)}")
    lines += [
        f"back again:  git checkout {PARAMS_FILE} {DVC_LOCK} && dvc checkout && trackway relog, if the last commit has "
        "it; its outputs stay in DVC's cache until `dvc gc`",
        "in MLflow:   its runs stay; if it is champion, the best of the dataset's others takes its place with dvc repro"
        if section == "experiments"
        else "in MLflow:   its runs and its registered model stay",
        "now run:     dvc repro",
    ]
    return "\n".join(lines)


def rename(key: str, new: str) -> str:
    """Renames an experiment or a dataset, with its outputs and its runs in MLflow, and returns what was done.

    Args:
        key: NAME, experiments.NAME or datasets.NAME.
        new: The new name.

    Raises:
        ParamsError: There is no such entry, or the new name is not possible; nothing was changed.
        GraphError: DVC or a flow is at work in this folder, or DVC's files have mistakes; nothing was changed.
        TrackingError: Everything was renamed except in MLflow.
    """
    with _nobody_else_at_work() as graph:
        params = load_params()
        section, old = _find(params, key)
        _refuse_name(params, section, new)
        text = _Text(PARAMS_FILE)
        text.rename(section, old, new)
        if section == "datasets":
            for experiment in params.experiments_of(old):
                text.replace(["experiments", experiment, "dataset"], old, new)
        for path in _scheduled(text.data, section, old):
            text.replace(path, old, new)
        content = text.checked()
        if params.tracking:
            address(params.tracking)  # reports an environment variable that is not set before anything is changed
        move = _Move(params, section, old, new)
        if taken := [str(path) for path in move.folders.values() if path.exists()]:
            raise ParamsError([f"{', '.join(taken)} is there already, of an earlier {new}; delete it and try again"])
        lock = _read_lock()
        digests = move.state_dicts()
        # In this order the command can be repeated after a kill; DVC finds the removed outputs in its cache.
        graph.remove_outputs(move.again)
        _write_lock(move.renamed(lock["stages"]), lock)
        write_atomically(PARAMS_FILE, content)
        for before, after in move.folders.items():
            if before.exists():
                before.rename(after)
    if params.tracking:
        try:
            if section == "datasets":
                rename_dataset(params.tracking, old, new)
            elif digests:
                rename_run(params.tracking, params.experiments[old].dataset, old, new, digests[0])
        except TrackingError as error:
            raise TrackingError(
                f"{old} is {new} now, but not in MLflow: {error}; next: dvc repro, which logs it there anew"
            ) from error
    return (
        f"{section}.{old} is {section}.{new} now, in {PARAMS_FILE}, {DVC_LOCK}, its outputs and MLflow\n"
        "now run: dvc repro (it evaluates and registers under the new name, and trains nothing for it)"
    )


# ---- what may be done


def _find(params: Params, key: str) -> tuple[str, str]:
    """Returns (section, name) of NAME, experiments.NAME or datasets.NAME; raises ParamsError if it is not unique."""
    section, _, name = key.rpartition(".")
    found = [each for each in SECTIONS if name in getattr(params, each) and section in ("", each)]
    if len(found) > 1:
        raise ParamsError([f"{name} is an experiment and a dataset; say experiments.{name} or datasets.{name}"])
    if not found:
        there = [f"{each}: {', '.join(getattr(params, each))}" for each in SECTIONS]
        names = [*params.experiments, *params.datasets]
        raise ParamsError(
            [f"{key} is neither an experiment nor a dataset; there are {'; '.join(there)}{did_you_mean(name, names)}"]
        )
    return found[0], name


def _refuse_name(params: Params, section: str, new: str) -> None:
    if not NAME.fullmatch(new) or YAML(typ="safe", pure=True).load(new) != new:
        raise ParamsError(
            [
                f"the name {new!r} must be a letter or digit, then letters, digits, - and _, and nothing that YAML "
                "takes for a number, a date, true, false or null"
            ]
        )
    if new in getattr(params, section):
        raise ParamsError([f"{section}.{new} is already in {PARAMS_FILE}; choose another name"])


def _refuse_if_scheduled(params: Params, names: dict[str, list[str]]) -> None:
    """Raises ParamsError if a schedule names one of the entries.

    Args:
        params: The parameters.
        names: Section → names of its entries.
    """
    plain = {
        "datasets": params.datasets,
        "flow": {"schedules": [schedule.model_dump() for schedule in params.flow.schedules]},
    }
    for section, name in ((section, name) for section, found in names.items() for name in found):
        for _, _, number, *_ in _scheduled(plain, section, name):
            raise ParamsError(
                [f"flow.schedules[{number}] in {PARAMS_FILE} names {name}; take it out there, then try again"]
            )


def _scheduled(data: Any, section: str, name: str) -> Iterator[list[Any]]:
    """Yields the path to each value by which a schedule names an experiment, a dataset or one of its stages.

    A target that is the name of both an experiment and a dataset means the dataset, with its experiments.
    """
    plain = section == "datasets" or name not in data["datasets"]
    for number, schedule in enumerate(data["flow"]["schedules"]):
        for key, value in (schedule.get("parameters") or {}).items():
            path = ["flow", "schedules", number, "parameters", key]
            if key == "dataset" and section == "datasets" and value == name:
                yield path
            for i, target in enumerate(value if isinstance(value, list) else []):
                kind, _, what = str(target).rpartition("@")
                if what == name and (KINDS.get(kind) == section if kind else plain):
                    yield [*path, i]


@contextmanager
def _nobody_else_at_work() -> Iterator[Graph]:
    """Holds DVC's lock and the flows' lock; raises GraphError if DVC or a flow is at work in this folder."""
    busy = GraphError("dvc repro or a flow is at work in this folder; wait until it has ended, then try again")
    checked_params()
    graph = Graph(Path.cwd())
    FLOW_LOCK.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(FLOW_LOCK, timeout=0), graph.repo.lock:
            if _stage_runs(Path(graph.repo.tmp_dir or "")):
                raise busy
            yield graph
    except (Timeout, LockError):
        raise busy from None


def _stage_runs(folder: Path) -> bool:
    """Returns whether a living process runs a stage.

    DVC releases its lock while a stage runs, and writes the stage's paths and its pid into a file instead.
    """
    file = folder / RWLOCK_FILE
    held = json.loads(file.read_text(encoding="utf-8") or "{}") if file.is_file() else {}
    holders = [*held.get("write", {}).values(), *(one for each in held.get("read", {}).values() for one in each)]
    return any(psutil.pid_exists(holder["pid"]) for holder in holders if holder)


# ---- params.yaml


class _Text:
    """The lines of a YAML file and the data in them, which are changed together."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.data = read_yaml(file)
        text = file.read_text(encoding="utf-8")
        self._lines = text.splitlines(keepends=True)
        self._placed = YAML().load(text)  # has the line and column of each key and value

    def cut(self, section: str, name: str) -> None:
        """Removes the lines of an entry: that of its key, and those below it that are indented further."""
        del self.data[section][name]
        line, column = self._placed[section].lc.key(name)
        end = line + 1
        for number in range(end, len(self._lines)):
            text = self._lines[number]
            if text.strip():
                if len(text) - len(text.lstrip(" ")) <= column:
                    break
                end = number + 1
        self._lines[line:end] = [""] * (end - line)

    def rename(self, section: str, old: str, new: str) -> None:
        entries = self.data[section]
        self.data[section] = {(new if name == old else name): entry for name, entry in entries.items()}
        self._replace(self._placed[section].lc.key(old), old, new)

    def replace(self, path: list[Any], old: str, new: str) -> None:
        """Replaces the name at the end of the value at a path; the value may be a stage's name, such as train@NAME."""
        placed, data = self._placed, self.data
        for key in path[:-1]:
            placed = placed[key]
            data = data[key] if key != old or key in data else data[new]
        last = path[-1]
        value = data[last]
        data[last] = value.removesuffix(old) + new
        positions = placed.lc.data or {}
        if last in positions:  # a value that an alias merges has no position here
            self._replace(positions[last][-2:], value, data[last])

    def _replace(self, place: tuple[int, int], old: str, new: str) -> None:
        line, column = place
        before, after = self._lines[line][:column], self._lines[line][column:]
        self._lines[line] = before + re.sub(rf"^(['\"]?){re.escape(old)}\b", rf"\g<1>{new}", after, count=1)

    def checked(self) -> bytes:
        """Returns the file's new content; raises ParamsError if its data is not what it should be."""
        text = "".join(self._lines)
        try:
            right = YAML(typ="safe", pure=True).load(text) == self.data
        except Exception:  # ruamel.yaml raises several kinds
            right = False
        if not right:
            raise ParamsError(
                [
                    f"this cannot be changed in {self.file} line by line: an entry must have lines of its own, and "
                    "none of it may be used elsewhere (&name, *name); edit the file by hand, then dvc repro"
                ]
            )
        parse_params(self.data, self.file)
        return text.encode()


# ---- dvc.lock and the outputs


def _read_lock() -> dict[str, Any]:
    lock = read_yaml(DVC_LOCK) if DVC_LOCK.is_file() else None
    return lock or {"schema": "2.0", "stages": {}}


def _write_lock(stages: dict[str, Any], lock: dict[str, Any]) -> None:
    if DVC_LOCK.is_file():
        write_atomically(DVC_LOCK, dumps_yaml({**lock, "stages": stages}).encode())


@dataclass
class _Move:
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
            "experiments": (_models, paths.history_file),
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
        file = paths.state_dict_file(self.old)
        return [sha256(file)] if self.section == "experiments" and file.is_file() else []

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


def _models(experiment: str) -> Path:
    return paths.state_dict_file(experiment).parent
