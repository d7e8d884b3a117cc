"""Says what of a stage is not as dvc.lock has it: which parameter, data, code, command or output, and how it differs.

DVC knows that a folder differs; which files of it do, its cache tells for data, and git's last commits for code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from subprocess import CalledProcessError
from typing import Any

from dvc.dependency import Dependency, ParamsDependency
from dvc.output import Output
from dvc.stage import PipelineStage
from dvc_data.hashfile.build import build
from dvc_data.hashfile.tree import Tree

from learn.errors import printable
from tasks.workspace.git import commits_of, files_of

STATES = {"deleted": "is missing", "modified": "has changed", "new": "is new", "not in cache": "is not in DVC's cache"}
SHOWN = 5  # largest number of files or values that are named for one folder or parameter
GONE = object()  # the value of a parameter that is not there


@dataclass(frozen=True)
class Change:
    """One thing that is not as dvc.lock has it."""

    kind: str  # parameter, data, code, command or output; `it` for the stage itself
    what: str  # its name, and what is different about it

    def __str__(self) -> str:
        return f"{self.kind} {printable(self.what)}"


def changes(stage: PipelineStage, made: frozenset[str]) -> list[Change]:
    """Returns why a stage is stale, apart from stages before it; nothing if it is up to date.

    Args:
        stage: The stage.
        made: The first folders of all that stages write, such as `data`; every other dependency is code.
    """
    if never_ran(stage):
        return [Change("it", "has never run: dvc.lock does not have it")]
    found = [Change("command", "is another one in dvc.yaml")] if stage.cmd_changed else []
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            found += _of_parameters(dep)
        else:
            found += [Change(kind_of(dep, made), what) for what in _of_path(dep)]
    return found + [Change("output", what) for out in stage.outs for what in _of_path(out)]


def never_ran(stage: PipelineStage) -> bool:
    """Returns whether dvc.lock does not have a stage."""
    return not any(entry.hash_info for entry in (*stage.deps, *stage.outs))


def kind_of(dep: Dependency, made: frozenset[str]) -> str:
    """Returns whether a dependency is data or code; `made` is that of `changes`."""
    return "data" if PurePosixPath(dep.def_path).parts[0] in made else "code"


def made_by(stages: dict[str, PipelineStage]) -> frozenset[str]:
    """Returns the first folders of all that stages write."""
    return frozenset(PurePosixPath(out.def_path).parts[0] for stage in stages.values() for out in stage.outs)


def _of_parameters(dep: ParamsDependency) -> Iterator[Change]:
    """Yields each parameter with another value than dvc.lock has; of a mapping, each key in it."""
    before, now = dep.hash_info.value or {}, dep.read_params()
    for name in sorted({*before, *now}):
        was, is_ = (_flat(name, values[name]) if name in values else {} for values in (before, now))
        different = [key for key in dict.fromkeys([*was, *is_]) if was.get(key, GONE) != is_.get(key, GONE)]
        for key in different[:SHOWN]:
            yield Change("parameter", f"{key}: {_as_text(was.get(key, GONE))} → {_as_text(is_.get(key, GONE))}")
        if len(different) > SHOWN:
            yield Change("parameter", f"{name}: {len(different) - SHOWN} more values are different")


def _flat(name: str, values: Any) -> dict[str, Any]:
    """Returns name → value of a parameter, or of all keys in a mapping."""
    if not isinstance(values, dict):
        return {name: values}
    return {key: each for sub, value in values.items() for key, each in _flat(f"{name}.{sub}", value).items()}


def _as_text(value: Any) -> str:
    return "not there" if value is GONE else json.dumps(value, ensure_ascii=False)


def _of_path(entry: Output) -> Iterator[str]:
    """Yields what is different about a file or folder; of a folder, each file in it if that is known."""
    status = entry.status().get(str(entry))
    if status is None:
        return
    files = _files(entry) if status == "modified" and entry.hash_info.isdir else []
    yield from files[:SHOWN]
    if len(files) > SHOWN:
        yield f"{entry.def_path}: {len(files) - SHOWN} more files are different"
    elif not files:
        yield f"{entry.def_path} {STATES.get(status, status)}"


def _files(entry: Output) -> list[str]:
    """Returns the files in which a folder differs from what dvc.lock has; none if that is not known any more."""
    _, _, tree = build(entry.cache, entry.fs_path, entry.fs, "md5", dry_run=True, ignore=entry.dvcignore)
    assert isinstance(tree, Tree)
    now = _by_path(tree)
    before = _before(entry)
    if before is None:
        return []
    return [
        f"{entry.def_path}/{path} {STATES['deleted' if path not in now else 'modified' if path in before else 'new']}"
        for path in sorted({*before, *now})
        if before.get(path) != now.get(path)
    ]


def _before(entry: Output) -> dict[str, str] | None:
    """Returns path → md5 of the files that a folder had when its stage ran: from DVC's cache, else from git."""
    if tree := entry.get_obj():
        return _by_path(tree)
    for commit in commits_of(entry.def_path):
        try:
            files = files_of(commit, entry.def_path)
        except (OSError, CalledProcessError):
            return None
        if _md5(files) == entry.hash_info.value:
            return files
    return None


def _by_path(tree: Tree) -> dict[str, str]:
    return {"/".join(parts): hash_info.value for parts, _, hash_info in tree}


def _md5(files: dict[str, str]) -> str | None:
    """Returns DVC's md5 of a folder with these files."""
    tree = Tree.from_list([{"relpath": path, "md5": md5} for path, md5 in files.items()], hash_name="md5")
    tree.digest()
    return tree.hash_info.value
