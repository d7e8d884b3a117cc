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
from pathlib import Path
from typing import Any

import psutil
from dvc.lock import LockError
from dvc.rwlock import RWLOCK_FILE
from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from flows.edits.lock import DVC_LOCK, Move, read_lock, write_lock
from flows.edits.text import Text
from flows.graph import FLOW_LOCK, KINDS, Graph
from learn.errors import GraphError, ParamsError, TrackingError, did_you_mean
from tasks.params import PARAMS_FILE, Params, load_params
from tasks.stage import checked_params
from tasks.sweep.storage import no_sweep_at_work, rename_sweeps
from tasks.tracking.address import address
from tasks.tracking.names import store_in
from tasks.tracking.rename import rename_dataset, rename_run, rename_sweep_runs
from tasks.workspace.files import write_atomically

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
        SweepError: A sweep of an experiment is at work; nothing was changed.
    """
    with _nobody_else_at_work() as graph:
        params = load_params()
        section, name = _find(params, key)
        names = _to_remove(params, section, name, with_experiments)
        _refuse_if_scheduled(params, names)
        text = Text(PARAMS_FILE)
        for each, found in names.items():
            for entry in found:
                text.cut(each, entry)
        content = text.checked()
        stages = [f"{kind}@{each}" for kind, of in KINDS.items() for each in names.get(of, [])]
        lock = read_lock()
        # In this order the command can be repeated after a kill; DVC finds the removed outputs in its cache.
        with no_sweep_at_work(names.get("experiments", [])):
            gone, kept = graph.remove_outputs(stages)
            write_lock({each: entry for each, entry in lock["stages"].items() if each not in stages}, lock)
            write_atomically(PARAMS_FILE, content)
    return _what_was_removed(section, names, gone, kept)


def rename(key: str, new: str) -> str:
    """Renames an experiment or a dataset, with its outputs, sweeps and runs in MLflow, and returns what was done.

    Args:
        key: NAME, experiments.NAME or datasets.NAME.
        new: The new name.

    Raises:
        ParamsError: There is no such entry, or the new name is not possible; nothing was changed.
        GraphError: DVC or a flow is at work in this folder, or DVC's files have mistakes; nothing was changed.
        SweepError: A sweep of the experiment is at work; nothing was changed.
        TrackingError: Everything was renamed except in MLflow.
    """
    with _nobody_else_at_work() as graph:
        params = load_params()
        section, old = _find(params, key)
        _refuse_name(params, section, new)
        text = Text(PARAMS_FILE)
        text.rename(section, old, new)
        if section == "datasets":
            for experiment in params.experiments_of(old):
                text.replace(["experiments", experiment, "dataset"], old, new)
        for path in _scheduled(text.data, section, old):
            text.replace(path, old, new)
        content = text.checked()
        if params.tracking:
            address(params.tracking)  # reports an environment variable that is not set before anything is changed
        move = Move(params, section, old, new)
        if taken := [str(path) for path in move.folders.values() if path.exists()]:
            raise ParamsError([f"{', '.join(taken)} is there already, of an earlier {new}; delete it and try again"])
        lock = read_lock()
        digests = move.state_dicts()
        if section == "experiments":
            rename_sweeps(old, new)
        # In this order the command can be repeated after a kill; DVC finds the removed outputs in its cache.
        graph.remove_outputs(move.again)
        write_lock(move.renamed(lock["stages"]), lock)
        write_atomically(PARAMS_FILE, content)
        for before, after in move.folders.items():
            if before.exists():
                before.rename(after)
    _rename_in_mlflow(params, section, old, new, digests)
    places = f"{PARAMS_FILE}, {DVC_LOCK}" + (", its outputs and MLflow" if params.tracking else " and its outputs")
    return (
        f"{section}.{old} is {section}.{new} now, in {places}\n"
        "now run: dvc repro (it evaluates and registers under the new name, and trains nothing for it)"
    )


def _rename_in_mlflow(params: Params, section: str, old: str, new: str, digests: list[str]) -> None:
    """Renames a dataset's runs, or an experiment's; raises TrackingError if MLflow's store does not answer."""
    if not (store := store_in(params)):
        return
    try:
        if section == "datasets":
            rename_dataset(store, old, new)
        else:
            dataset = params.experiments[old].dataset
            rename_sweep_runs(store, dataset, old, new)
            if digests:
                rename_run(store, dataset, old, new, digests[0])
    except TrackingError as error:
        raise TrackingError(
            f"{old} is {new} now, but not in MLflow: {error}; next: dvc repro, which logs it there anew"
        ) from error


# ---- what may be done


def _to_remove(params: Params, section: str, name: str, with_experiments: bool) -> dict[str, list[str]]:
    """Returns section → names of the entries that go with one; raises ParamsError if it is still needed."""
    if section == "experiments":
        dataset = params.experiments[name].dataset
        if params.experiments_of(dataset) == [name]:
            raise ParamsError(
                [
                    f"experiments.{name} is the only one of {dataset}, and each dataset needs one; "
                    f"next: trackway remove --with-experiments datasets.{dataset}"
                ]
            )
        return {section: [name]}
    users = params.experiments_of(name)
    if not with_experiments:
        raise ParamsError(
            [
                f"datasets.{name} is used by {', '.join(users)}; next: "
                f"trackway remove --with-experiments datasets.{name}, which takes these out, too"
            ]
        )
    return {section: [name], "experiments": users}


def _what_was_removed(section: str, names: dict[str, list[str]], gone: list[str], kept: list[str]) -> str:
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
