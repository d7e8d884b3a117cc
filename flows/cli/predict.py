"""The commands that use registered models, and choose the champion by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import app, in_project
from learn.errors import DataError, printable
from tasks.params import load_params
from tasks.workspace.files import write_result


@app.command(context_settings={"ignore_unknown_options": True})  # so that -0.5 is a number
def predict(
    given: Annotated[list[str], typer.Argument(help="photos and folders of photos, tables (CSV, Parquet), or numbers")],
    model: Annotated[str, typer.Option(help="a registered model: NAME@champion or NAME/VERSION")],
    top: Annotated[int, typer.Option(help="how many classes to print", min=1)] = 3,
    out: Annotated[Path | None, typer.Option(help="a CSV to write: each input with what is predicted")] = None,
    plot: Annotated[Path | None, typer.Option(help="a PNG to write: the photos with their classes")] = None,
) -> None:
    """Predict with a registered model, such as food@champion: photos, rows of a table, or numbers."""
    there = in_project()
    for option, file, ending in (("--out", out, ".csv"), ("--plot", plot, ".png")):
        if file and file.suffix.lower() != ending:
            raise DataError(f"{option} is {file}; its name must end in {ending}")
    print("loading the model", file=sys.stderr)
    from tasks import predict as prediction
    from tasks.given import refuse_to_replace

    found = prediction.predict(load_params(), model, given, there)
    files = [there / name for name in given] + [row.photo for row in found.rows if row.photo]
    for option, file in (("--out", out), ("--plot", plot)):
        if file:
            refuse_to_replace(option, there / file, files)
    for row in found.rows if not out else ():
        classes = ", ".join(f"{name} {probability:.1%}" for name, probability in row.classes[:top])
        print(f"{printable(row.name)}: {classes or f'{row.value:.6g}'}")
    if out:
        write_result("--out", there / out, prediction.as_csv(found.rows))
        print(f"written: {out}, with {len(found.rows):,} prediction{'s' * (len(found.rows) != 1)}")
    if plot:
        write_result("--plot", there / plot, prediction.plot(found.rows))
        print(f"written: {plot}")
    for name, why in found.unreadable.items():
        print(f"error: {printable(name)} cannot be read: {why}", file=sys.stderr)
    if found.unreadable:
        raise typer.Exit(1)


@app.command()
def rollback(dataset: Annotated[str, typer.Argument(help="whose champion goes")]) -> None:
    """Make the champion before the present one champion again; the present one does not come back by itself."""
    in_project()
    from tasks.champion import rollback as go_back

    print(go_back(load_params(), dataset))


@app.command()
def promote(
    dataset: Annotated[str, typer.Argument(help="the dataset")],
    experiment: Annotated[str, typer.Argument(help="one of its experiments, which was evaluated")],
    because: Annotated[str, typer.Option(help="the reason, which is kept with the version")],
) -> None:
    """Make an experiment's model the champion, whatever its metrics are; models of today do not take its place."""
    in_project()
    from tasks.champion import promote as choose

    print(choose(load_params(), dataset, experiment, because))
