"""Shows a sweep in the terminal: its best trials, with only the keys that differ and the metric that decides."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from learn.errors import printable
from tasks.sweep.record import best_first, counted
from tasks.sweep.space import as_text
from tasks.sweep.study import Result, Sweep

ROWS = 10  # number of trials in the table


def table(sweep: Sweep, results: list[Result]) -> Table:
    """Returns the best trials, best first."""
    identity = sweep.identity
    best = best_first(sweep, results)
    caption = counted(results)
    if len(best) > ROWS:
        caption += f"; the best {ROWS} are shown"
    view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption)
    view.add_column("trial", justify="right", no_wrap=True)
    for key in identity.space:
        view.add_column(Text(key), justify="right")
    view.add_column(f"{identity.part} {identity.metric}", justify="right", no_wrap=True)
    view.add_column("seconds", justify="right", no_wrap=True)
    for result in best[:ROWS]:
        value = result.outcome.metrics[identity.metric]
        view.add_row(
            str(result.number),
            *(Text(printable(as_text(value))) for value in result.values.values()),
            f"{value:.2%}" if identity.metric == "accuracy" else f"{value:.5f}",
            f"{result.outcome.seconds:.1f}",
        )
    return view


def measured(sweep: Sweep, result: Result) -> str:
    """Returns what a trial measured, or how it ended if it is not complete."""
    identity = sweep.identity
    value = result.outcome.metrics.get(identity.metric)
    return result.outcome.ended if value is None else f"{identity.part} {identity.metric} {value:.4f}"


def as_words(values: dict[str, Any]) -> str:
    """Returns key: value, key: value."""
    return ", ".join(f"{key}: {as_text(value)}" for key, value in values.items())
