"""The commands that say where things come from: why a stage is stale, and what a model was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import app, in_project
from tasks.params import load_params


@app.command()
def why(
    stage: Annotated[
        str, typer.Argument(help="a stage such as train@digits-mlp; an experiment or dataset: all of its")
    ],
) -> None:
    """Say what made a stage stale, or that it is up to date, and what would make it run again."""
    in_project()
    from flows.graph import Graph
    from flows.reports.why import why as answer

    print(answer(Graph(Path.cwd()), stage))


@app.command()
def lineage(
    target: Annotated[
        str,
        typer.Argument(
            help="a run's id, NAME@ALIAS or NAME/VERSION, a path, an md5 or sha256, a dataset or an experiment"
        ),
    ],
) -> None:
    """Say which data, code and parameters a model came from, and which runs and versions came from data or a file."""
    there = in_project()
    from flows.reports.lineage import lineage as answer

    print(answer(load_params(), target, there))
