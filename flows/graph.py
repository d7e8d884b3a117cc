"""Reads DVC's graph: which stages there are, what each needs, and which are not up to date."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import networkx as nx
from dvc.dependency import ParamsDependency
from dvc.exceptions import CheckoutError, DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc.utils.strictyaml import YAMLValidationError, determine_linecol
from ruamel.yaml import YAML
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_fixed

from learn.errors import GraphError, ParamsError, did_you_mean
from tasks.atomic_dvc import mend
from tasks.params import PARAMS_FILE, Params, read_yaml

mend()
logging.getLogger("dvc").setLevel(logging.WARNING)  # it would write to the log of each flow that dvc.lock is written

T = TypeVar("T")
DVC_FILE, DVC_LOCK = Path("dvc.yaml"), Path("dvc.lock")
FLOW_LOCK = Path(".dvc/tmp/flow.lock")  # the lock by which one flow at a time works in a folder
SHIPPED = "`git diff dvc.yaml` shows what was changed"
KINDS = {  # kind of stage → the section of params.yaml for whose entries it exists
    "group": "sections",
    "download": "datasets",
    "split": "datasets",
    "transform": "datasets",
    "train": "experiments",
    "evaluate": "experiments",
    "register": "datasets",
}


class Graph:
    """DVC's stages and what each needs."""

    def __init__(self, root: Path) -> None:
        """Raises GraphError if dvc.yaml or dvc.lock cannot be read, or if their stages do not fit together."""
        read_yaml(Path(os.path.relpath(root / DVC_FILE)))  # its message has line and column, unlike DVC's
        try:
            self.repo = Repo(str(root))
            stages = [stage for stage in self.repo.index.stages if isinstance(stage, PipelineStage)]
            self._graph = self.repo.index.graph  # an edge leads from a stage to a stage that it needs
        except YAMLValidationError as error:
            text = YAML().load(root / DVC_FILE)
            found = [(".".join(map(str, e.path)), determine_linecol(text, e.path)[0], e.msg) for e in error.exc.errors]
            problems = [f"{DVC_FILE}, line {line}: {key or 'the file'}: {what}" for key, line, what in found]
            raise GraphError("\n".join(problems)) from error
        except DvcException as error:
            raise GraphError(f"DVC cannot read the stages: {error}".expandtabs(2)) from error
        self.stages: dict[str, PipelineStage] = {stage.addressing: stage for stage in stages}
        self.one_thread = RLock()  # DVC's objects are for one thread

    def check(self, params: Params) -> None:
        """Raises GraphError unless dvc.yaml has exactly the stages of these datasets and experiments."""
        named = {"datasets": [*params.datasets], "experiments": [*params.experiments], "sections": ["experiments"]}
        wanted = {f"{kind}@{name}" for kind, section in KINDS.items() for name in named[section]}
        problems = [f"{DVC_FILE} has no stage {name}; {SHIPPED}" for name in sorted(wanted - set(self.stages))]
        problems += [
            f"{DVC_FILE}: stage {name} is none that Trackway runs; a stage must be one of {', '.join(KINDS)}, for each "
            "dataset or experiment"
            for name in sorted(set(self.stages) - wanted)
        ]
        plain = read_yaml(PARAMS_FILE)
        problems += [
            f"{DVC_FILE}: stage {name} lists the parameter {key}, which is not in {PARAMS_FILE}; {SHIPPED}"
            for name in sorted(wanted & set(self.stages))
            for dep in self.stages[name].deps
            if isinstance(dep, ParamsDependency) and dep.def_path == str(PARAMS_FILE)
            for key in dep.params
            if not _has(plain, key.split("."))
        ]
        if problems:
            raise GraphError("\n".join(problems))

    def look(self, question: Callable[[PipelineStage], T], names: Iterable[str]) -> dict[str, T]:
        """Returns stage → answer to a question about what DVC knows of it; waits while another process runs stages.

        Args:
            question: A function that changes nothing.
            names: The stages.
        """
        return self.when_free(lambda: {name: question(self.stages[name]) for name in names})

    def when_free(self, action: Callable[[], T]) -> T:
        """Calls a function that needs DVC's lock, and returns its result; waits while another process runs stages."""
        busy = retry_if_exception_type(LockError)
        for attempt in Retrying(retry=busy, wait=wait_fixed(1), before_sleep=_say_waiting):
            with attempt, self.one_thread, self.repo.lock:
                return action()
        raise AssertionError("tenacity tries without end")

    def changed(self, names: Iterable[str] | None = None) -> set[str]:
        """Returns the stages that DVC does not consider up to date; waits while another process runs stages.

        A stage must not have run since this graph was read.

        Args:
            names: Stages to look at; None for all.
        """
        found = self.look(lambda stage: bool(stage.changed()), names or self.stages)
        return {name for name, changed in found.items() if changed}

    def versions(self, name: str) -> dict[str, str]:
        """Returns path → md5 of the files and folders that a stage depends on, as they are now."""
        stage = self.stages[name]
        stage.save_deps()
        return {
            dep.def_path: dep.hash_info.value for dep in stage.deps if dep.hash_info and dep.hash_info.name == "md5"
        }

    def restore(self) -> list[str]:
        """Restores missing outputs from DVC's cache, as dvc.lock lists them, and returns their stages.

        DVC removes a stage's outputs before it runs the stage, so they are missing if the stage did not finish.

        Raises:
            GraphError: The cache no longer has them.
        """
        gone = [
            name for name, stage in self.stages.items() if any(out.hash_info and not out.exists for out in stage.outs)
        ]
        outs = [out for name in gone for out in self.stages[name].outs if out.hash_info and out.use_cache]
        lost = []
        with self.repo.lock:
            for out in outs:  # `dvc checkout` would read dvc.lock again for each stage
                try:
                    if not out.get_obj():
                        raise CheckoutError([out.def_path])
                    out.checkout(force=True)
                except DvcException:
                    lost.append(out.def_path)
        if lost:
            raise GraphError(f"DVC's cache no longer has {', '.join(lost)}; the same command makes them again")
        return gone

    def remote_address(self) -> str | None:
        """Returns the address of DVC's default remote; None if there is none."""
        name = self.repo.config["core"].get("remote")
        return str(self.repo.config["remote"][name]["url"]) if name else None

    def remove_outputs(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Removes those outputs of stages that DVC's cache has, too.

        Returns:
            The paths that were removed, and those that were left because the cache does not have them as they are.
        """
        gone, kept = [], []
        for out in (out for name in names for out in self.stages[name].outs if out.exists):
            if out.changed_cache() or out.changed_checksum():
                kept.append(out.def_path)
            else:
                out.remove()
                gone.append(out.def_path)
                if (folder := Path(out.fs_path).parent).name == out.stage.addressing.partition("@")[2]:
                    with suppress(OSError):  # another output is still in the folder
                        folder.rmdir()
        return gone, kept

    def reads(self, name: str) -> dict[str, list[str]]:
        """Returns name of a stage → the paths of those of its outputs that a stage depends on, as a whole or a part."""
        paths = [Path(dep.fs_path) for dep in self.stages[name].deps if not isinstance(dep, ParamsDependency)]
        found = {
            need: [out.def_path for out in self.stages[need].outs if _overlaps(Path(out.fs_path), paths)]
            for need in self.needs(name)
        }
        return {need: outs for need, outs in found.items() if outs}

    def outputs(self, name: str) -> dict[str, list[str]]:
        """Returns the name of a stage → the paths of all its outputs."""
        return {name: [out.def_path for out in self.stages[name].outs]}

    def needs(self, name: str) -> list[str]:
        """Returns the names of the stages that a stage needs directly."""
        return [stage.addressing for stage in self._graph.successors(self.stages[name])]

    def before(self, name: str) -> list[str]:
        """Returns the names of all stages that a stage needs, each after those that it needs."""
        return self.order([name])[:-1]

    def matching(self, target: str) -> list[str]:
        """Returns the stages that a target means, in the order of dvc.yaml.

        Args:
            target: A stage (train@digits-mlp), a kind of stage (train), an experiment (digits-mlp) or a dataset
                (digits).

        Raises:
            ParamsError: It is none of these.
        """
        matching = [name for name in self.stages if target in (name, *name.split("@"))]
        if not matching:
            words = {word for name in self.stages for word in (name, *name.split("@"))}
            raise ParamsError(
                [
                    f"target {target} is no stage, dataset or experiment{did_you_mean(target, words)}; "
                    "`dvc stage list` shows the stages"
                ]
            )
        return matching

    def order(self, targets: Iterable[str] | None) -> list[str]:
        """Returns the targets' stages and all that they need, each after those that it needs.

        Args:
            targets: Stages (train@digits-mlp), kinds of stages (train), experiments (digits-mlp) or datasets (digits);
                without any, all stages are returned.

        Raises:
            ParamsError: A target is none of these.
        """
        wanted = set(self.stages) if not targets else {name for target in targets for name in self.matching(target)}
        wanted |= {need.addressing for name in wanted for need in nx.descendants(self._graph, self.stages[name])}
        return [
            stage.addressing for stage in reversed(list(nx.topological_sort(self._graph))) if stage.addressing in wanted
        ]


def _overlaps(path: Path, others: Iterable[Path]) -> bool:
    """Returns whether a path is one of others, or one of them is below the other."""
    return any(path.is_relative_to(other) or other.is_relative_to(path) for other in others)


def _say_waiting(attempts: RetryCallState) -> None:
    if attempts.attempt_number == 1:
        print("another process runs stages in this folder; waiting for it to end", flush=True)


def _has(data: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True
