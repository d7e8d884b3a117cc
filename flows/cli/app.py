"""What all groups of commands of `trackway` share: the typer application, the console, the project's folder."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from learn.errors import TrackwayError
from tasks.params import PARAMS_FILE

app = typer.Typer(
    help="PyTorch experiments, versioned by DVC, run by Prefect, compared in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(width=None if sys.stdout.isatty() else 160)
PROJECT = (PARAMS_FILE, Path("dvc.yaml"), Path(".dvc"))  # a folder with all of these is a project's folder


def _print_version(asked: bool) -> None:
    if asked:
        print(f"trackway {version('trackway')}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and end")
    ] = False,
) -> None:
    """PyTorch experiments, versioned by DVC, run by Prefect, compared in MLflow."""


def go_to_project() -> Path:
    """Changes to the project's folder if the working directory is inside one.

    Returns:
        The path from the project's folder back to the former working directory, relative to which the user named files.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if all((folder / needed).exists() for needed in PROJECT):
            os.chdir(folder)
            return here.relative_to(folder)
    return Path()


def in_project() -> Path:
    """Does what `go_to_project` does, and raises TrackwayError if there is no project."""
    there = go_to_project()
    for needed in PROJECT:
        if not needed.exists():
            raise TrackwayError(
                f"{needed} is not here; run this in the project's folder or below (now in {Path.cwd()})"
            )
    return there
