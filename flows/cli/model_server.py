"""The command that serves a registered model; `up`, `down` and `status` of the project's servers are in serve.py."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.app import app, in_project
from flows.servers.access import LOCAL, is_loopback
from tasks.params import load_params


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="a registered model: NAME@champion or NAME/VERSION")],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    host: Annotated[str, typer.Option(help="where to listen; by default only this machine can ask")] = LOCAL,
) -> None:
    """Serve a registered model: a page for photos, drawings or numbers, MLflow's REST API, and metrics."""
    in_project()
    params = load_params()
    from tasks.tracking.loading import store_of

    store = store_of(params)
    print("loading the model", flush=True)
    from web.server import serve as start

    start(store, model, host, port, threads=params.threads, local=is_loopback(host))
