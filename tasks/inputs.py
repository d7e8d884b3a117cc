"""Finds what a stage reads although dvc.yaml does not list it: DVC would not notice a change of it.

Users write code in the file of a dataset, in that of a model, and in `learn/evaluation/metrics.py`. What these import
from the project must be among the deps of the stages that run them, and so must the files that a dataset's class opens.
"""

from __future__ import annotations

import ast
import gc
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import learn
from learn.errors import DataError, GraphError, TrackwayError
from tasks.params import PARAMS_FILE, Params, read_yaml

DVC_YAML = Path("dvc.yaml")
# Code that cannot change what a stage writes.
NO_MATTER = {Path("learn/__init__.py"), Path("learn/errors.py")}
NO_DATA = ("__pycache__", ".egg-info", ".dist-info")  # ends of the names of folders that hold no data
# The files in which users write, and the kinds of stages that run what is in them.
METRICS_FILE = Path("learn/evaluation/metrics.py")
OF_METRICS = ("evaluate", "register")
FOLDERS = {  # folder → how dvc.yaml names a file in it, and the kinds of stages that run that file
    Path("learn/data/datasets"): ("${item.source.name}", ("download", "split", "transform")),
    Path("learn/models"): ("${item.model.name}", ("train", "evaluate")),
}
LISTS = {folder / "__init__.py" for folder in FOLDERS}


def deps(graph: Any, kind: str, name: str = "") -> set[Path]:
    """Returns the deps of a kind of stage.

    Args:
        graph: The content of dvc.yaml.
        kind: The kind of stage, such as `train`.
        name: The name of a dataset or model, which replaces the placeholder in the deps; "" for none.

    Raises:
        GraphError: dvc.yaml has no deps for this kind of stage.
    """
    try:
        listed = [str(dep) for dep in graph["stages"][kind]["do"]["deps"]]
        for placeholder, _ in FOLDERS.values():
            listed = [dep.replace(placeholder, name) for dep in listed]
    except (KeyError, TypeError):
        raise GraphError(f"stages.{kind}.do.deps is missing in {DVC_YAML}; it must list what the stage reads") from None
    return {Path(os.path.normpath(dep)) for dep in listed}


# ---- code


def helpers() -> set[Path]:
    """Returns the project's files outside `learn` that users' files import, directly or through other files."""
    written = [file.relative_to(_root()) for folder in FOLDERS for file in (_root() / folder).glob("*.py")]
    starts = [METRICS_FILE, *(file for file in written if file not in LISTS)]
    found = {file for start in starts for _, _, file in _imports(start)}
    return {_root() / file for file in found if file.parts[0] != "learn"}


def check_imports(params: Params) -> None:
    """Checks that users' files import only project code that the stages which run them depend on.

    Raises:
        GraphError: One does not; the text has a line for each such import.
    """
    used = (
        {dataset.source.name for dataset in params.datasets.values()},
        {experiment.model.name for experiment in params.experiments.values()},
    )
    starts = [(METRICS_FILE, kind, "") for kind in OF_METRICS]
    for (folder, (_, kinds)), names in zip(FOLDERS.items(), used, strict=True):
        starts += [(folder / f"{name}.py", kind, name) for name in sorted(names) for kind in kinds]
    graph = read_yaml(DVC_YAML)
    problems: dict[tuple[Path, int, Path], list[str]] = {}
    for start, kind, name in starts:
        listed = deps(graph, kind, name)
        for importer, line, file in _imports(start):
            if not _is_in(file, listed) and file != start:
                problems.setdefault((importer, line, file), []).append(kind)
    if problems:
        raise GraphError("\n".join(_problem(*where, kinds) for where, kinds in problems.items()))


def _problem(importer: Path, line: int, file: Path, kinds: list[str]) -> str:
    return (
        f"{importer}, line {line}, imports {file}, which is no dependency of {' and '.join(kinds)} in {DVC_YAML}: a "
        f"change of it would go unseen. Write what is needed into {importer}, or list {file} there below deps of "
        f"{' and '.join(kinds)}"
    )


def _imports(start: Path) -> list[tuple[Path, int, Path]]:
    """Returns (file, line, imported file) for each import of project code in a file and in those it imports."""
    found, seen, todo = [], {start}, [start]
    while todo:
        importer = todo.pop()
        for line, module in _imported_modules(importer):
            for file in _files(module):
                if file not in NO_MATTER:
                    found.append((importer, line, file))
                    if file not in seen:
                        seen.add(file)
                        todo.append(file)
    return found


def _imported_modules(file: Path) -> Iterator[tuple[int, str]]:
    """Yields (line, absolute name) of each import in a file; `from a import b` gives a.b even if b is no module."""
    try:
        with _no_collection():
            tree = ast.parse((_root() / file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # the import itself reports the error
    package = file.parent.parts
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{name.name}") for name in node.names)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switches the garbage collector off while a syntax tree is made, since a flow has other threads.

    Python 3.11 counts the depth of all threads' trees in one place. If its garbage collector runs a finalizer, another
    thread may make a tree in the middle of this one, which then ends in a SystemError.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yields all statements in a file, including those in functions, except what only a type checker reads."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            todo.extend(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr))


def _files(module: str) -> Iterator[Path]:
    """Yields the project's files that importing a.b.c runs: the module, and the `__init__.py` of packages with code.

    The lists of models and datasets run with each model and dataset, so they are left out unless something is imported
    from the list itself.
    """
    parts = module.split(".")
    last: Path | None = None
    for length in range(1, len(parts) + 1):
        base = Path(*parts[:length])
        candidates = (base.with_suffix(".py"), base / "__init__.py")
        file = next((file for file in candidates if (_root() / file).is_file()), None)
        if file is None and not (_root() / base).is_dir():
            break
        if last and last.name == "__init__.py" and last not in LISTS and _says(last):
            yield last
        last = file
    if last and (last.name != "__init__.py" or _says(last)):
        yield last


def _says(package: Path) -> bool:
    """Returns whether an `__init__.py` has any code."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse((_root() / package).read_bytes()).body)


def _root() -> Path:
    return Path(learn.__file__).parent.parent


# ---- data


@contextmanager
def watched(kind: str, dataset: str, *known: Path) -> Iterator[None]:
    """Wraps what a dataset's class does in a stage, and checks that it opens only files that the stage depends on.

    Sees what Python opens, not what a library opens in C.

    Args:
        kind: The kind of stage, such as `download`.
        dataset: The dataset's name.
        known: Files and folders that the stage gives the class to read.

    Raises:
        GraphError: The class opened a file of the project that dvc.yaml does not list as a dependency of the stage.
        DataError: The class, which a user may have written, raised an error; its traceback is printed before.
    """
    opened: set[str] = set()
    active = True

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if active and event in ("open", "sqlite3.connect") and isinstance(arguments[0], str | bytes | os.PathLike):
            opened.add(os.fsdecode(arguments[0]))

    sys.addaudithook(hear)  # stays until this process, which runs one stage, ends
    try:
        yield
    except (TrackwayError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename and _is_in(Path(os.fsdecode(error.filename)), set(known)):
            raise  # the file of an earlier stage is missing, because that stage has not run
        traceback.print_exc()
        raise DataError(
            f"datasets.{dataset}.source in {PARAMS_FILE}: its class failed in the stage {kind}, see the lines above: "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        active = False
    others = sorted(file for file in _of_the_project(opened) if not _is_in(file, set(known)))
    listed = deps(read_yaml(DVC_YAML), kind) if others else set()
    if unseen := [file for file in others if not _is_in(file, listed)]:
        raise GraphError(
            f"datasets.{dataset}.source opens {unseen[0]}, which is no dependency of {kind} in {DVC_YAML}: a change of "
            f"it would go unseen. List it there below deps of {kind}"
        )


def _of_the_project(opened: set[str]) -> Iterator[Path]:
    """Yields those of the opened files that are the project's data.

    Code, hidden files, files in Python's own folders and metadata of installed packages (which scikit-learn reads) are
    no data.
    """
    root, python = Path.cwd().resolve(), Path(sys.prefix).resolve()
    for name in opened:
        file = Path(name).resolve()
        if file.is_relative_to(root) and not file.is_relative_to(python) and file.is_file():
            relative = file.relative_to(root)
            hidden = any(part.startswith(".") or part.endswith(NO_DATA) for part in relative.parts)
            if not hidden and file.suffix not in (".py", ".pyc"):
                yield relative


def _is_in(file: Path, listed: set[Path]) -> bool:
    """Returns whether a file, or a folder that contains it, is listed."""
    return not listed.isdisjoint([file, *file.parents])
