"""The commands that use registered models, and choose the champion by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import app, in_project
from tasks.params import load_params


@app.command()
def predict(
    photos: Annotated[
        list[Path], typer.Argument(help="photos: JPEG, PNG, WebP, BMP or GIF", exists=True, dir_okay=False)
    ],
    model: Annotated[str, typer.Option(help="a registered model: NAME@champion or NAME/VERSION")],
    top: Annotated[int, typer.Option(help="how many classes to print", min=1)] = 3,
    plot: Annotated[Path | None, typer.Option(help="a PNG to write: the photos with their classes")] = None,
) -> None:
    """Predict the classes of photos with a registered model, such as food@champion."""
    there = in_project()
    print("loading the model", file=sys.stderr)
    from tasks import predict as prediction

    found = prediction.predict(load_params().tracking, model, [there / photo for photo in photos])
    for photo, entry in zip(photos, found, strict=True):
        print(f"{photo}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in entry.classes[:top]))
    if plot:
        prediction.plot(found, there / plot)
        print(f"written: {plot}")


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
