"""The command that writes a registered model as a file or folder for other programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from flows.cli.app import app, console, in_project
from tasks.params import load_params

if TYPE_CHECKING:
    from tasks.export.measure import Measured
    from tasks.export.one_file import Exported


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="a registered model: NAME@champion or NAME/VERSION")],
    kind: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="onnx, pt2, torchscript, safetensors, space or docker")
    ],
    out: Annotated[Path, typer.Option(help="the file or folder to write; one of before is replaced")],
    int8: Annotated[
        bool, typer.Option("--int8", help="with onnx: weights of eight bits, which are smaller and less exact")
    ] = False,
) -> None:
    """Write a registered model for other programs: a file, a Hugging Face Space, or what Docker builds an image from.

    What is written is kept only if it predicts what the model predicts.
    """
    there = in_project()
    print("loading the model", file=sys.stderr)
    from tasks.export.command import export as write

    exported = write(load_params(), model, kind, there / out, int8=int8)
    if exported.rows:
        _show(exported)
    for remark in exported.remarks:
        print(remark)
    print(f"written: {out}")


def _show(exported: Exported) -> None:
    """Prints sizes, times and metrics as a table."""
    view = Table(box=box.SIMPLE_HEAD, caption=f"one sample at a time on {exported.rows[0].latency.device}")
    view.add_column("")
    for title in ("MB", "median ms", "p95 ms", exported.metric):
        view.add_column(title, justify="right", no_wrap=True)
    for row in exported.rows:
        times = (f"{milliseconds:.3f}" for milliseconds in (row.latency.median, row.latency.p95))
        view.add_row(row.name, f"{row.size / 1e6:.3f}", *times, _score(row, exported.metric))
    console.print(view, highlight=False)


def _score(row: Measured, metric: str) -> str:
    """Returns a metric with its interval as text."""
    if row.score is None or row.interval is None:
        return "–"
    form = ".2%" if metric == "accuracy" else ".4g"
    return f"{row.score:{form}} ({row.interval.low:{form}} to {row.interval.high:{form}})"
