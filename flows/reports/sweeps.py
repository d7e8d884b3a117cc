"""Shows a sweep: its best trials after a search, or all of them to compare, in the terminal or as Markdown."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from flows.reports.comparison.markdown import escaped
from flows.reports.layout import Column, lay_out
from learn.errors import SweepError, printable
from learn.evaluation.metrics import METRICS
from tasks.params import Params
from tasks.sweep.record import best_first, counted
from tasks.sweep.space import EXAMPLE, as_text
from tasks.sweep.storage import last_identity, open_sweep
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
            _number(identity.metric, value),
            f"{result.outcome.seconds:.1f}",
        )
    return view


def _number(metric: str, value: float) -> str:
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.5f}"


def last_sweeps(params: Params, names: list[str]) -> list[Sweep]:
    """Returns the last sweep of each experiment that is named; without names, of all that have one.

    Raises:
        ParamsError: There is no such experiment.
        SweepError: There is no sweep of an experiment that is named, or none at all.
    """
    for name in names:
        params.experiment(name)
    found = {name: last_identity(name) for name in names or params.experiments}
    missing = next((name for name, identity in found.items() if identity is None), None)
    if missing and (names or not any(found.values())):
        of = missing if names else "any experiment"
        raise SweepError(f"there is no sweep of {of} yet; next: trackway sweep {missing} -S {EXAMPLE}")
    return [open_sweep(identity) for identity in found.values() if identity]


def trials(sweep: Sweep, width: int) -> Group:
    """Returns the table of all trials, best first, for a terminal of this width, and the sentences below it."""
    columns = _columns(sweep)
    layout = lay_out(columns, width)
    layout.view.title, layout.view.title_justify = Text(f"sweep of {sweep.identity.experiment}"), "left"
    sentences = [*layout.remark("trackway compare --sweep --out sweep.md"), _sentence(sweep, columns)]
    return Group(layout.view, *map(Text, sentences))


def markdown(sweeps: list[Sweep]) -> str:
    """Returns the tables of all trials as Markdown, a section for each sweep."""
    lines = []
    for sweep in sweeps:
        columns = _columns(sweep)
        lines += [f"# Sweep of {escaped(sweep.identity.experiment)}", "", escaped(_sentence(sweep, columns)), ""]
        rows = [
            [escaped(column.name) for column in columns],
            ["---:" if column.is_number else "---" for column in columns],
            *([escaped(cell) for cell in row] for row in zip(*(column.cells for column in columns), strict=True)),
        ]
        lines += [*(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join(lines)


def _columns(sweep: Sweep) -> list[Column]:
    """Returns the columns: the keys whose values differ, the metric that decides, and how the trials ended."""
    identity, results = sweep.identity, sweep.results()
    best = best_first(sweep, results)
    ranked = [*best, *(result for result in results if result not in best)]
    texts = {key: tuple(printable(as_text(result.values[key])) for result in ranked) for key in identity.space}
    differing = [key for key, cells in texts.items() if len(set(cells)) > 1]
    values = [result.value(identity.metric) for result in ranked]
    measured = tuple("–" if value is None else _number(identity.metric, value) for value in values)
    return [
        Column("trial", tuple(str(result.number) for result in ranked), is_number=True),
        *(Column(key, texts[key], len(differing) - at, is_number=True) for at, key in enumerate(differing)),
        Column(f"{identity.part}\n{identity.metric}", measured, is_number=True),
        Column("epochs", tuple(f"{_epochs(result):,}" for result in ranked), len(differing) + 2, is_number=True),
        Column("state", tuple(result.outcome.ended for result in ranked), len(differing) + 1),
        Column("", tuple("best" if best and result is best[0] else "" for result in ranked)),
    ]


def _epochs(result: Result) -> int:
    """Returns how many epochs a trial trained: the lines of its history below the head."""
    return max(0, len(result.outcome.history.splitlines()) - 1)


def _sentence(sweep: Sweep, columns: list[Column]) -> str:
    """Returns how many trials there are, what decides between them, and which keys have no column."""
    identity = sweep.identity
    titles = {column.title for column in columns}
    same = [f"{key} is the same in all" for key in identity.space if key not in titles]
    decides = f"{identity.part} {identity.metric} decides ({METRICS[identity.metric].better} is better)"
    return "; ".join([counted(sweep.results()), decides, *same])


def measured(sweep: Sweep, result: Result) -> str:
    """Returns what a trial measured, or how it ended if it is not complete."""
    identity = sweep.identity
    value = result.outcome.metrics.get(identity.metric)
    return result.outcome.ended if value is None else f"{identity.part} {identity.metric} {value:.4f}"


def as_words(values: dict[str, Any]) -> str:
    """Returns key: value, key: value."""
    return ", ".join(f"{key}: {as_text(value)}" for key, value in values.items())
