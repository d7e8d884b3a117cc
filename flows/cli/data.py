"""Commands that add datasets and experiments to params.yaml, rename them, and remove them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flows.cli.app import app, console, go_to_project, in_project
from flows.edits.catalog import add_to_params, entries
from tasks.params import PARAMS_FILE, read_yaml


@app.command()
def ls() -> None:
    """List the catalog: ready-made datasets and experiments."""
    go_to_project()
    here = read_yaml(PARAMS_FILE) if PARAMS_FILE.is_file() else {}
    view = Table()
    for column in ("name", "what", "in params.yaml"):
        view.add_column(column)
    for entry in entries():
        view.add_row(entry.name, entry.summary, "yes" if entry.is_in(here) else "")
    console.print(view)


@app.command()
def add(name: Annotated[str, typer.Argument(help="a name from `trackway ls`")]) -> None:
    """Merge experiments of the catalog, with their dataset, into params.yaml, keeping its comments."""
    in_project()
    added = add_to_params(name, PARAMS_FILE)
    print(f"added to {PARAMS_FILE}: {', '.join(added)}\nnow run: dvc repro")


@app.command()
def add_images(
    name: Annotated[str, typer.Argument(help="what to call the dataset")],
    path: Annotated[
        Path, typer.Argument(help="a folder with one sub-folder a class, a zip or tar of one, or a CSV table")
    ],
    size: Annotated[
        int | None, typer.Option(help="pixels: each photo becomes SIZE × SIZE; 64 by default", min=8)
    ] = None,
    grey: Annotated[bool, typer.Option("--grey", help="one channel instead of three")] = False,
) -> None:
    """Add your own photos to params.yaml, with a first experiment; again with the same NAME takes a new version."""
    there = in_project()
    from flows.edits.images import add_images as add

    print(add(name, there / path, PARAMS_FILE, size=size, mode="L" if grey else None))


class Target(StrEnum):
    """What a table's target is."""

    CLASSES = "classes"
    NUMBERS = "numbers"


@app.command()
def add_table(
    name: Annotated[str, typer.Argument(help="what to call the dataset")],
    file: Annotated[Path, typer.Argument(help="a CSV file with any separator, or a Parquet file")],
    target: Annotated[str, typer.Option(help="the column to predict")],
    split_column: Annotated[str | None, typer.Option(help="the column that says train or test")] = None,
    kind: Annotated[
        Target | None, typer.Option("--as", help="what the target is; found out from its values by default")
    ] = None,
) -> None:
    """Add your own table to params.yaml, with a first experiment; again with the same NAME takes a new version."""
    there = in_project()
    from flows.edits.tables import add_table as add

    chosen = kind.value if kind else None
    print(add(name, there / file, PARAMS_FILE, target=target, split_column=split_column, kind=chosen))


@app.command()
def remove(
    name: Annotated[
        str, typer.Argument(help="an experiment or a dataset (experiments.NAME or datasets.NAME if it is both)")
    ],
    with_experiments: Annotated[
        bool, typer.Option("--with-experiments", help="of a dataset: take its experiments out, too")
    ] = False,
) -> None:
    """Take an experiment or a dataset out of params.yaml and dvc.lock, with its outputs, which DVC's cache keeps."""
    in_project()
    print("loading PyTorch and DVC")
    from flows.edits.entries import remove as take_out

    print(take_out(name, with_experiments=with_experiments))


@app.command()
def rename(
    old: Annotated[str, typer.Argument(help="an experiment or a dataset, as in remove")],
    new: Annotated[str, typer.Argument(help="its new name")],
) -> None:
    """Rename an experiment or a dataset, with its outputs and its runs in MLflow; nothing is trained again."""
    in_project()
    print("loading PyTorch, DVC and MLflow")
    from flows.edits.entries import rename as give_name

    print(give_name(old, new))
