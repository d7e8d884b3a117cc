"""The commands that share outputs with other machines, through DVC's remote."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.app import app, in_project
from tasks.params import load_params

Remote = Annotated[str | None, typer.Option(help="name of the DVC remote; the default one if it is left out")]


@app.command()
def push(remote: Remote = None) -> None:
    """Push outputs and DVC's run cache to the remote, and look whether each champion's state_dict is there."""
    in_project()
    params = load_params()
    from flows.share import check_champions, transfer

    transfer("push", remote)
    print("\n".join(check_champions(params, remote)))


@app.command()
def pull(remote: Remote = None) -> None:
    """Pull the outputs that dvc.lock names, and DVC's run cache; dvc repro then finds nothing to do."""
    in_project()
    from flows.share import transfer

    transfer("pull", remote)
