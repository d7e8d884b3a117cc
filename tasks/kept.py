"""Finds the files of seeds that need not be trained again, because only the list of seeds has changed.

What they depend on is in dvc.lock, and their files are in DVC's cache.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from tasks.workspace.paths import history_file, models_folder, training_of

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.stage import PipelineStage

SEEDS = {"seed", "seeds"}  # keys of an experiment


def kept_seeds(experiment: str, seeds: Collection[int]) -> dict[int, dict[str, bytes]]:
    """Returns seed → the files of its folder in `models/E/`: name → content.

    Empty if dvc.lock has the same list, since the stage then runs because it was forced to.

    Args:
        experiment: Name of the experiment.
        seeds: The seeds that are wanted.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            stage = repo.stage.load_one("dvc.yaml", name=f"train@{experiment}")
            before = _seeds_before(stage, experiment)
            files = _files(stage) if before else {}
    except (DvcException, OSError):  # run by hand, outside DVC's graph, or not in the cache any more
        return {}
    return {seed: found for seed in sorted(before & set(seeds)) if (found := _of_seed(files, experiment, seed))}


def _seeds_before(stage: PipelineStage, experiment: str) -> set[int]:
    """Returns the seeds of the training that dvc.lock has; none if they are the same, or anything else has changed."""
    from dvc.dependency import ParamsDependency

    key, listed = f"experiments.{experiment}", [dict[str, Any](), dict[str, Any]()]
    for dep in stage.deps:
        if not isinstance(dep, ParamsDependency):
            if dep.workspace_status():
                return set()
            continue
        before, now = dict(dep.hash_info.value or {}), dict(dep.read_params())
        listed = [before.pop(key, {}), now.pop(key, {})]
        if before != now or _without_seeds(listed[0]) != _without_seeds(listed[1]):
            return set()
    was, wanted = ([each["seed"]] if each.get("seed") is not None else each.get("seeds") or [] for each in listed)
    return set() if was == wanted else set(was)


def _without_seeds(experiment: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in experiment.items() if key not in SEEDS}


def _files(stage: PipelineStage) -> dict[str, bytes]:
    """Returns path → content of all files that the stage wrote, from DVC's cache.

    Raises:
        OSError: The cache no longer has one.
    """
    return {path: content for out in stage.outs for path, content in _of_output(out).items()}


def _of_output(out: Output) -> dict[str, bytes]:
    if not out.hash_info:
        return {}
    cache, found = out.cache, {}
    if not out.hash_info.isdir:
        return {out.def_path: cache.fs.cat_file(cache.oid_to_path(out.hash_info.value))}
    for parts, _, hash_info in out.get_obj() or ():
        found["/".join([out.def_path, *parts])] = cache.fs.cat_file(cache.oid_to_path(hash_info.value))
    return found


def _of_seed(files: dict[str, bytes], experiment: str, seed: int) -> dict[str, bytes]:
    """Returns the files of one seed, which was one of several, or the only one and then has its history elsewhere."""
    folder = f"{training_of(experiment, seed).as_posix()}/"
    if found := {path.removeprefix(folder): content for path, content in files.items() if path.startswith(folder)}:
        return found
    folder = f"{models_folder(experiment).as_posix()}/"
    found = {path.removeprefix(folder): content for path, content in files.items() if path.startswith(folder)}
    history = files.get(history_file(experiment).as_posix())
    if history is None or any("/" in name for name in found):
        return {}
    return {**found, history_file(experiment, seed).name: history}
