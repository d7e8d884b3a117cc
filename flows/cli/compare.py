"""The command that shows which experiment is best, and whether that is chance."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import app, console, in_project
from learn.errors import DataError
from tasks.params import Params, load_params
from tasks.workspace.files import write_result


@app.command()
def compare(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATASET | EXPERIMENT]...", help="what to compare; all experiments of all datasets by default"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="a page to write, .html or .md, with a section for each dataset"),
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="compare the trials of the experiments' last sweeps; FILE is then .md"),
    ] = False,
) -> None:
    """Compare experiments that have been evaluated: which is best, and may that be chance? Without --out, as tables."""
    there = in_project()
    from flows.reports.comparison.command import collected, content_of

    params = load_params()
    if sweep:
        _compare_trials(params, targets or [], there / out if out else None)
        return
    if out:
        content_of(out)  # refuses another kind of file before any work
    reports, why = collected(params, targets or [], details=out is not None)
    if out:
        write_result("--out", there / out, content_of(out)(reports))
        print(f"written: {out}")
    else:
        from flows.reports.comparison.terminal import terminal

        for report in reports:
            console.print(terminal(report, console.width), "", highlight=False)
    if why:
        print(f"error: {why}", file=sys.stderr)
        raise typer.Exit(1)


def _compare_trials(params: Params, names: list[str], out: Path | None) -> None:
    """Shows the trials of sweeps, or writes them as Markdown."""
    from flows.reports.sweeps import last_sweeps, markdown, trials

    if out and out.suffix.lower() != ".md":
        raise DataError(f"--out is {out}; with --sweep its name must end in .md")
    sweeps = last_sweeps(params, names)
    if out:
        write_result("--out", out, markdown(sweeps).encode())
        print(f"written: {out}")
        return
    for found in sweeps:
        console.print(trials(found, console.width), "", highlight=False)
