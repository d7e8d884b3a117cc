"""Commands that check the project, run the flow, and show its results."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import which
from typing import Annotated

import typer

from flows.cli.app import app, console, in_project
from flows.executors import PRELOADING, preloaded
from flows.servers import lifecycle, state
from flows.servers.access import for_clients
from flows.servers.temporary import start_temporary_server
from tasks.params import PARAMS_FILE, load_params
from tasks.workspace.processes import end_at_once

ACTIVATE = """\
Find the commands:     source .venv/bin/activate
"""
COMMIT = """\
Keep these results:    git add --all && git commit -m "results" (dvc metrics diff compares with the last commit)
"""
STOPPED = "stopped; run it again and it goes on"
NEXT_STEPS = """\
Compare and watch:     trackway up (or make up) starts MLflow's and Prefect's pages, and the schedules
Change an experiment:  edit params.yaml, then dvc repro (what depends on the change runs again, nothing else)
Add a dataset:         trackway ls, trackway add fashion_mnist, then dvc repro"""


@app.command()
def check() -> None:
    """Check params.yaml and dvc.yaml: every mistake that can be seen without doing the work; the device, too."""
    in_project()
    from flows.deployments import deployments
    from flows.graph import Graph
    from learn.training.device import use_device
    from learn.training.precision import check_machine
    from tasks.stage import checked_params
    from tasks.tracking.address import address

    params = checked_params()
    deployments(params)
    Graph(Path.cwd()).check(params)
    device = use_device(params.device, params.threads)
    for name, experiment in params.experiments.items():
        check_machine(f"experiments.{name}", device, experiment.precision, compiled=experiment.compile)
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
    on: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="run the stages on a Ray cluster, such as ray://HOST:10001"),
    ] = None,
) -> None:
    """Run the flow: what `dvc repro` would do, in parallel and watched by Prefect. Ends with the results."""
    in_project()
    with _interrupted_once():
        if state.last() and not state.running():  # the servers were killed, or the machine went down
            lifecycle.down()
        print("loading DVC, Prefect and MLflow")
        if (running := state.running()) and running.password:
            os.environ |= for_clients(running.password)
        with ExitStack() as meanwhile:
            with _ended_by_ctrl_c():
                server = start_temporary_server()
                if not (on or Path("dvc.lock").exists()) and meanwhile.enter_context(
                    preloaded()
                ):  # everything must run
                    print(PRELOADING)
                _renew_prefect()
                from flows.pipeline import run_pipeline

            final = run_pipeline(targets, workers, force, publish, on, server.wait)
        if final.is_cancelled():
            raise KeyboardInterrupt
    _print_results()  # its result is ignored: the run has succeeded even if MLflow does not answer now
    if not final.is_completed():
        print(f"error: the flow ended {final.name}\n{final.message}", file=sys.stderr)
        raise typer.Exit(1)
    print(next_steps())


def _renew_prefect() -> None:
    """Has Prefect read its settings and set up its log again, as if it were imported now.

    In a fork of the warm process it was imported long ago, after MLflow, which gives Python's root logger a handler;
    Prefect would leave its log to that one.
    """
    import prefect  # noqa: F401  its first import sets up the log
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging

    refresh_global_settings_context()
    logging.getLogger().handlers.clear()
    setup_logging(incremental=False)


def next_steps() -> str:
    """Returns what to do after a run; first what is still to do: the environment's activation, then `git commit`."""
    try:
        done = subprocess.run(["git", "status", "--porcelain", "dvc.lock"], capture_output=True, text=True, check=False)
        changed = done.returncode == 0 and bool(done.stdout)
    except FileNotFoundError:  # git is not installed
        changed = False
    return ("" if which("trackway") else ACTIVATE) + (COMMIT if changed else "") + NEXT_STEPS


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Makes Ctrl-C end the command with one line and exit code 130; further ones are ignored meanwhile."""

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
    """Makes Ctrl-C end the process at once while libraries are imported.

    pydantic would turn a KeyboardInterrupt into another error. Nothing needs to be cleaned up at this time, since
    everything that was started ends with this process.
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
    in_project()
    if not _print_results():
        raise typer.Exit(1)


def _print_results() -> bool:
    """Prints the table of results and remarks about it; returns False if MLflow did not answer for its part of it."""
    from flows.reports.results import not_measured, table
    from flows.reports.results import results as rows

    params = load_params()
    found, why = rows(params)
    if not found:
        print("no experiment has been evaluated; next: dvc repro, or trackway run")
        return True
    layout = table(found, console.width)
    console.print(layout.view)
    for sentence in (*layout.remark("trackway compare --out report.html"), *not_measured(params, found)):
        print(sentence)
    if why:
        print(f"error: {why}", file=sys.stderr)
    return not why


@app.command()
def relog() -> None:
    """Rebuild from DVC's outputs the runs and champions that MLflow has not: after `dvc pull`, or without mlruns/."""
    in_project()
    print("loading PyTorch, DVC and MLflow")
    from flows.graph import Graph
    from tasks.relog import relog as rebuild
    from tasks.stage import checked_params

    params = checked_params()
    Graph(Path.cwd())
    rebuild(params)
