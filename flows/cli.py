"""The `trackway` command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.catalog import add_to_params, entries
from learn.errors import TrackwayError
from learn.params import PARAMS_FILE, load_params, read_yaml

app = typer.Typer(
    help="PyTorch experiments, versioned by DVC, run by Prefect, compared in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(width=None if sys.stdout.isatty() else 100)

NEXT_STEPS = """\
Compare the runs:      mlflow server --backend-store-uri {uri}   then http://127.0.0.1:5000
Watch flows run:       prefect server start   then http://127.0.0.1:4200
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
def check() -> None:
    """Check params.yaml: every mistake that can be seen without doing the work."""
    from tasks.stage import checked_params

    params = checked_params()
    print(f"{PARAMS_FILE} is fine: {len(params.datasets)} datasets, {len(params.experiments)} experiments")


@app.command()
def run(
    targets: Annotated[list[str] | None, typer.Argument(help="stages, datasets or experiments; all by default")] = None,
    workers: Annotated[int | None, typer.Option(help="stages at a time; cores ÷ threads by default", min=1)] = None,
    force: Annotated[bool, typer.Option("--force", help="run also what is up to date")] = False,
) -> None:
    """Run the flow: what `dvc repro` would do, in parallel and watched by Prefect. Ends with the results."""
    _in_project()
    from flows.pipeline import run_pipeline

    state = run_pipeline(targets, workers, force)
    results()
    if not state.is_completed():
        print(f"error: the flow ended {state.name}\n{state.message}", file=sys.stderr)
        raise typer.Exit(1)
    params = load_params()
    print(NEXT_STEPS.format(uri=params.tracking or "URI"))


@app.command()
def results() -> None:
    """Print the comparison of all experiments that have been evaluated."""
    from flows.results import results as rows
    from flows.results import table

    console.print(table(rows(load_params())))


def _in_project() -> None:
    for needed in (PARAMS_FILE, Path("dvc.yaml"), Path(".dvc")):
        if not needed.exists():
            raise TrackwayError(f"{needed} is not here; run this in the project's folder (now in {Path.cwd()})")


def main() -> None:
    try:
        app()
    except TrackwayError as error:
        sys.exit(error.as_message())


if __name__ == "__main__":
    main()
