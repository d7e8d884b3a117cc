"""The `trackway` command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from flows import servers
from flows.access import LOCAL, check_access, for_clients
from flows.catalog import add_to_params, entries
from flows.temporary import start_temporary_server
from learn.errors import TrackwayError
from tasks.params import PARAMS_FILE, load_params, read_yaml
from tasks.stage import MENDABLE, cannot_write, collect_garbage_rarely, end_at_once

app = typer.Typer(
    help="PyTorch experiments, versioned by DVC, run by Prefect, compared in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(width=None if sys.stdout.isatty() else 130)

COMMIT = """\
Keep these results:    git add --all && git commit -m "results" (dvc metrics diff compares with the last commit)
"""
STOPPED = "stopped; run it again and it goes on"
PROJECT = (PARAMS_FILE, Path("dvc.yaml"), Path(".dvc"))  # by which its folder is known
NEXT_STEPS = """\
Compare and watch:     trackway up (or make up) starts MLflow's and Prefect's pages, and the schedules
Change an experiment:  edit params.yaml, then dvc repro (what depends on the change runs again, nothing else)
Add a dataset:         trackway ls, trackway add fashion_mnist, then dvc repro"""


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


@app.command()
def ls() -> None:
    """List the catalog: ready-made datasets with their experiments."""
    _go_to_project()
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
    _in_project()
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
    there = _in_project()
    from flows.images import add_images as add

    print(add(name, there / path, PARAMS_FILE, size=size, mode="L" if grey else None))


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
    _in_project()
    print("loading PyTorch and DVC")
    from flows.entries import remove as take_out

    print(take_out(name, with_experiments=with_experiments))


@app.command()
def rename(
    old: Annotated[str, typer.Argument(help="an experiment or a dataset, as in remove")],
    new: Annotated[str, typer.Argument(help="its new name")],
) -> None:
    """Rename an experiment or a dataset, with its outputs and its runs in MLflow; nothing is trained again."""
    _in_project()
    print("loading PyTorch, DVC and MLflow")
    from flows.entries import rename as give_name

    print(give_name(old, new))


@app.command()
def check() -> None:
    """Check params.yaml and dvc.yaml: every mistake that can be seen without doing the work; the device, too."""
    _in_project()
    from flows.deployments import deployments
    from flows.graph import Graph
    from learn.training.device import use_device
    from tasks.address import address
    from tasks.stage import checked_params

    params = checked_params()
    deployments(params)
    Graph(Path.cwd()).check(params)
    use_device(params.device, params.threads)
    if params.tracking:
        address(params.tracking)
    print(f"{PARAMS_FILE} is fine: {len(params.datasets)} datasets, {len(params.experiments)} experiments")


@app.command()
def run(
    targets: Annotated[list[str] | None, typer.Argument(help="stages, datasets or experiments; all by default")] = None,
    workers: Annotated[int | None, typer.Option(help="stages at a time; cores ÷ threads by default", min=1)] = None,
    force: Annotated[bool, typer.Option("--force", help="run also what is up to date")] = False,
    publish: Annotated[
        str | None,
        typer.Option(metavar="BRANCH", help="then push outputs to DVC's remote, dvc.lock to this branch"),
    ] = None,
) -> None:
    """Run the flow: what `dvc repro` would do, in parallel and watched by Prefect. Ends with the results."""
    _in_project()
    with _interrupted_once():
        if servers.last() and not servers.running():  # they were killed, or the machine was
            servers.down()
        print("loading DVC, Prefect and MLflow")
        if (running := servers.running()) and running.password:
            os.environ |= for_clients(running.password)
        with _ended_by_ctrl_c():
            wait_for_server = start_temporary_server()
            _renew_prefect()
            from flows.pipeline import run_pipeline

        state = run_pipeline(targets, workers, force, publish, wait_for_server)
        if state.is_cancelled():
            raise KeyboardInterrupt
    _print_results()  # that MLflow does not answer now makes no run fail
    if not state.is_completed():
        print(f"error: the flow ended {state.name}\n{state.message}", file=sys.stderr)
        raise typer.Exit(1)
    print(next_steps())


def _renew_prefect() -> None:
    """Prefect reads its settings when it is imported; in a fork of the warm process that was long ago."""
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging

    refresh_global_settings_context()
    setup_logging()


def next_steps() -> str:
    """What to do after a run. It begins with the commit, if dvc.lock differs from the last one."""
    try:
        done = subprocess.run(["git", "status", "--porcelain", "dvc.lock"], capture_output=True, text=True, check=False)
        changed = done.returncode == 0 and bool(done.stdout)
    except FileNotFoundError:  # no git: then nothing to commit to
        changed = False
    return (COMMIT if changed else "") + NEXT_STEPS


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """A Ctrl-C ends the command with one line and exit code 130; a second one does not disturb the first."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        end_at_once(130)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """For the time in which libraries are imported: pydantic turns a KeyboardInterrupt into an error of its own.

    Nothing is to be cleaned up then: what was started ends with this process.
    """

    def end(*_: object) -> None:
        os.write(sys.stderr.fileno(), f"{STOPPED}\n".encode())
        os._exit(130)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@app.command()
def results() -> None:
    """Print the comparison of all experiments that have been evaluated."""
    _in_project()
    if not _print_results():
        raise typer.Exit(1)


def _print_results() -> bool:
    """The table, and what is to be said about it. False if MLflow could not be asked for its part of it."""
    from flows.results import not_measured, table
    from flows.results import results as rows

    params = load_params()
    found, why = rows(params)
    if not found:
        print("no experiment has been evaluated; next: dvc repro, or trackway run")
        return True
    console.print(table(found))
    for sentence in not_measured(params, found):
        print(sentence)
    if why:
        print(f"error: {why}", file=sys.stderr)
    return not why


Port = Annotated[int, typer.Option(min=1, max=65535)]


@app.command()
def up(
    host: Annotated[str, typer.Option(help="where they listen; only on this machine without a password")] = LOCAL,
    prefect_port: Port = servers.PREFECT_PORT,
    mlflow_port: Port = servers.MLFLOW_PORT,
) -> None:
    """Start Prefect's server, MLflow's server and the schedules, until `trackway down`.

    If TRACKWAY_PASSWORD is set in the environment, both pages ask for it (the user is trackway).
    """
    _in_project()
    check_access(host)
    if running := servers.running():
        print("running already")
    else:
        print(f"starting Prefect, MLflow and the schedules; logs in {servers.FOLDER}/")
        from flows.deployments import deployments
        from flows.graph import Graph
        from tasks.stage import checked_params

        params = checked_params()
        deployments(params)  # a wrong schedule is told here, not in a log
        Graph(Path.cwd()).check(params)
        running = servers.up(params, host=host, prefect_port=prefect_port, mlflow_port=mlflow_port)
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


def _show(running: servers.Servers) -> None:
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


@app.command()
def relog() -> None:
    """Rebuild from DVC's outputs the runs and champions that MLflow has not: after `dvc pull`, or without mlruns/."""
    _in_project()
    print("loading PyTorch, DVC and MLflow")
    from flows.graph import Graph
    from tasks.relog import relog as rebuild
    from tasks.stage import checked_params

    params = checked_params()
    Graph(Path.cwd())
    rebuild(params)


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
    there = _in_project()
    print("loading the model", file=sys.stderr)
    from tasks import predict as prediction

    found = prediction.predict(load_params().tracking, model, [there / photo for photo in photos])
    for photo, entry in zip(photos, found, strict=True):
        print(f"{photo}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in entry.classes[:top]))
    if plot:
        prediction.plot(found, there / plot)
        print(f"written: {plot}")


def _go_to_project() -> Path:
    """Changes to the project's folder, if this one is inside it; returns the way back, for what the user named."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if all((folder / needed).exists() for needed in PROJECT):
            os.chdir(folder)
            return here.relative_to(folder)
    return Path()


def _in_project() -> Path:
    """As _go_to_project; raises TrackwayError if there is no project."""
    there = _go_to_project()
    for needed in PROJECT:
        if not needed.exists():
            raise TrackwayError(
                f"{needed} is not here; run this in the project's folder or below (now in {Path.cwd()})"
            )
    return there


def main() -> None:
    collect_garbage_rarely()
    try:
        app()
    except TrackwayError as error:
        sys.exit(error.as_message())
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        sys.exit(f"error: {cannot_write('trackway ' + ' '.join(sys.argv[1:2]), error)}")


if __name__ == "__main__":
    main()
