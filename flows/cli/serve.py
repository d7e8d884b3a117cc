"""Commands that start the servers, show their state, and stop them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from flows.cli.app import app, console, in_project
from flows.servers import lifecycle, state
from flows.servers.access import LOCAL, check_access

Port = Annotated[int, typer.Option(min=1, max=65535)]


@app.command()
def up(
    host: Annotated[str, typer.Option(help="where they listen; only on this machine without a password")] = LOCAL,
    prefect_port: Port = state.PREFECT_PORT,
    mlflow_port: Port = state.MLFLOW_PORT,
) -> None:
    """Start Prefect's server, MLflow's server and the schedules, until `trackway down`.

    If TRACKWAY_PASSWORD is set in the environment, both pages ask for it (the user is trackway).
    """
    in_project()
    check_access(host)
    if running := state.running():
        print("running already")
    else:
        print(f"starting Prefect, MLflow and the schedules; logs in {state.FOLDER}/")
        from flows.deployments import deployments
        from flows.graph import Graph
        from tasks.stage import checked_params

        params = checked_params()
        deployments(params)  # reports a wrong schedule here, not in a log
        Graph(Path.cwd()).check(params)
        running = lifecycle.up(params, host=host, prefect_port=prefect_port, mlflow_port=mlflow_port)
    _show(running)


@app.command()
def down() -> None:
    """Stop what `trackway up` started, and the flow runs that it started."""
    in_project()
    print("stopped" if lifecycle.down() else "nothing was running")


@app.command()
def status() -> None:
    """What of `trackway up` runs, and whether it answers. Exit code 1 where something does not."""
    in_project()
    if running := state.running():
        _show(running)
        if not all(running.answering(name) for name in WHAT if name != "warm" or running.warm):
            raise typer.Exit(1)
    else:
        print("nothing is running; `trackway up` starts Prefect, MLflow and the schedules")
        raise typer.Exit(1)


WHAT = {
    "prefect": "flows, schedules, logs",
    "mlflow": "experiments, runs, models",
    "serve": "starts the scheduled runs",
    "warm": "gives stages their libraries",
}


def _show(running: state.Servers) -> None:
    view = Table(box=box.SIMPLE_HEAD)
    for column in ("server", "address", "state", "what"):
        view.add_column(column, no_wrap=True)
    states = running.states()
    for name, what in WHAT.items():
        off = name == "warm" and not running.warm
        state = states[name].lower() if name in running.ours else "off" if off else "elsewhere"
        answer = "" if off or running.answering(name) else ", does not answer"
        view.add_row(name, running.addresses.get(name, "–"), state + answer, what)
    console.print(view)
