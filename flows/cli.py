"""The `trackway` command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from flows import servers
from flows.catalog import add_to_params, entries
from learn.errors import TrackwayError
from learn.params import PARAMS_FILE, load_params, read_yaml
from tasks.stage import collect_garbage_rarely

app = typer.Typer(
    help="PyTorch experiments, versioned by DVC, run by Prefect, compared in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(width=None if sys.stdout.isatty() else 120)

NEXT_STEPS = """\
Compare and watch:     trackway up (or make up) starts MLflow's and Prefect's pages, and the schedules
Change an experiment:  edit params.yaml, then dvc repro (what depends on the change runs again, nothing else)
Add a dataset:         trackway ls, trackway add fashion_mnist, then dvc repro"""


@app.command()
def ls() -> None:
    """List the catalog: ready-made datasets with their experiments."""
    here = read_yaml(PARAMS_FILE).get("datasets", {}) if PARAMS_FILE.is_file() else {}
    view = Table()
    for column in ("name", "what", "in params.yaml"):
        view.add_column(column)
    for entry in entries():
        view.add_row(entry.name, entry.summary, "yes" if entry.name in here else "")
    console.print(view)


@app.command()
def add(name: Annotated[str, typer.Argument(help="a name from `trackway ls`")]) -> None:
    """Merge a dataset of the catalog and its experiments into params.yaml, keeping its comments."""
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
    _in_project()
    from flows.images import add_images as add

    print(add(name, path, PARAMS_FILE, size=size, mode="L" if grey else None))


@app.command()
def check() -> None:
    """Check params.yaml: every mistake that can be seen without doing the work."""
    from flows.deployments import deployments
    from tasks.stage import checked_params

    params = checked_params()
    deployments(params)
    print(f"{PARAMS_FILE} is fine: {len(params.datasets)} datasets, {len(params.experiments)} experiments")


@app.command()
def run(
    targets: Annotated[list[str] | None, typer.Argument(help="stages, datasets or experiments; all by default")] = None,
    workers: Annotated[int | None, typer.Option(help="stages at a time; cores ÷ threads by default", min=1)] = None,
    force: Annotated[bool, typer.Option("--force", help="run also what is up to date")] = False,
) -> None:
    """Run the flow: what `dvc repro` would do, in parallel and watched by Prefect. Ends with the results."""
    _in_project()
    if servers.last() and not servers.running():  # they were killed, or the machine was
        servers.down()
    from flows.pipeline import run_pipeline

    state = run_pipeline(targets, workers, force)
    results()
    if not state.is_completed():
        print(f"error: the flow ended {state.name}\n{state.message}", file=sys.stderr)
        raise typer.Exit(1)
    print(NEXT_STEPS)


@app.command()
def results() -> None:
    """Print the comparison of all experiments that have been evaluated."""
    from flows.results import results as rows
    from flows.results import table

    if found := rows(load_params()):
        console.print(table(found))
    else:
        print("no experiment has been evaluated; next: dvc repro, or trackway run")


Port = Annotated[int, typer.Option(min=1, max=65535)]


@app.command()
def up(
    prefect_port: Port = servers.PREFECT_PORT,
    mlflow_port: Port = servers.MLFLOW_PORT,
    serve_port: Port = servers.SERVE_PORT,
) -> None:
    """Start Prefect's server, MLflow's server and the schedules, on 127.0.0.1, until `trackway down`."""
    _in_project()
    if running := servers.running():
        print("running already")
    else:
        from flows.deployments import deployments
        from tasks.stage import checked_params

        params = checked_params()
        deployments(params)  # a wrong schedule is told here, not in a log
        print(f"starting Prefect, MLflow and the schedules; logs in {servers.FOLDER}/")
        running = servers.up(params, prefect_port=prefect_port, mlflow_port=mlflow_port, serve_port=serve_port)
    _show(running)


@app.command()
def down() -> None:
    """Stop what `trackway up` started, and the flow runs that it started."""
    _in_project()
    print("stopped" if servers.down() else "nothing was running")


@app.command()
def status() -> None:
    """What of `trackway up` runs, and whether it answers. Exit code 1 where something does not."""
    _in_project()
    if running := servers.running():
        _show(running)
        if not all(map(running.answering, running.addresses)):
            raise typer.Exit(1)
    else:
        print("nothing is running; `trackway up` starts Prefect, MLflow and the schedules")
        raise typer.Exit(1)


WHAT = {
    "prefect": "flows, schedules, logs",
    "mlflow": "experiments, runs, models",
    "serve": "starts the scheduled runs",
}


def _show(running: servers.Servers) -> None:
    view = Table(box=box.SIMPLE_HEAD)
    for column in ("server", "address", "state", "what"):
        view.add_column(column, no_wrap=True)
    for name, state in running.states().items():
        answer = "" if running.answering(name) else ", does not answer"
        view.add_row(name, running.addresses[name], state.lower() + answer, WHAT[name])
    console.print(view)


@app.command()
def relog() -> None:
    """Rebuild from DVC's outputs the runs and champions that MLflow has not: after `dvc pull`, or without mlruns/."""
    _in_project()
    from tasks.relog import relog as rebuild
    from tasks.stage import checked_params

    rebuild(checked_params())


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
    _in_project()
    from tasks import predict as prediction

    found = prediction.predict(load_params().tracking, model, photos)
    for entry in found:
        print(f"{entry.photo}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in entry.classes[:top]))
    if plot:
        prediction.plot(found, plot)
        print(f"written: {plot}")


def _in_project() -> None:
    for needed in (PARAMS_FILE, Path("dvc.yaml"), Path(".dvc")):
        if not needed.exists():
            raise TrackwayError(f"{needed} is not here; run this in the project's folder (now in {Path.cwd()})")


def main() -> None:
    collect_garbage_rarely()
    try:
        app()
    except TrackwayError as error:
        sys.exit(error.as_message())


if __name__ == "__main__":
    main()
