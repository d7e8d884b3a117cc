"""What the benchmarks share: a project to run in, Fashion-MNIST's files, medians and tables."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from tests.support.project import ROOT, make_project


def mirror() -> Path | None:
    """The folder with FashionMNIST/*.gz, if there is one."""
    for place in (os.environ.get("DATA_MIRROR"), ROOT.parent / "shared" / "data"):
        if place and (Path(place) / "FashionMNIST").is_dir():
            return Path(place).absolute()
    print("no Fashion-MNIST here: set DATA_MIRROR to a folder that has FashionMNIST/*.gz", file=sys.stderr)
    return None


@contextmanager
def project() -> Iterator[Path]:
    """A copy of the working tree without anything that was made in it, in a git repository of its own."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "project"
        target.mkdir()
        yield make_project(target).folder


def run(folder: Path, *command: str, output: Callable[[str], object] = str, **variables: str) -> float:
    """Runs a command in a project; its seconds. output: is given what it printed. variables: of the environment."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment(folder, **variables), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    seconds = time.perf_counter() - start
    output(done.stdout)
    return seconds


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """That of a command in a project. variables: besides those of this process."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = {"DATA_MIRROR": str(place)} if (place := mirror()) else {}
    return os.environ | {"PATH": path, "PREFECT_HOME": str(folder / ".prefect")} | variables | found


def in_turns(times: int, *actions: Callable[[], float]) -> list[list[float]]:
    """Calls the actions one after another, several times; each one's seconds."""
    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(times):
        for measured, action in zip(seconds, actions, strict=True):
            measured.append(action())
    return seconds


def own_process() -> ProcessPoolExecutor:
    """A process that stays: what is called in it finds its imports and data from the call before."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def median(values: list[float]) -> float:
    return statistics.median(values)


def median_ratio(first: list[float], second: list[float]) -> float:
    """The median of first ÷ second, pair by pair as they were measured."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def show(title: str, columns: list[str], rows: list[list[str]], note: str = "") -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"\n{title}", table, note, sep="\n", highlight=False)
