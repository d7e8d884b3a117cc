"""Compares all experiments by DVC's metrics, with what only MLflow knows (seconds, champions)."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from flows.reports.layout import Column, Layout, fits, lay_out, needed
from flows.servers.state import mlflow_address
from learn.comparison.ranking import metric_of, ranked
from learn.errors import TrackingError
from tasks.params import Params
from tasks.tracking.address import address
from tasks.tracking.cards import escaped
from tasks.tracking.names import Store, store_in
from tasks.tracking.page import VIEW_KEY
from tasks.tracking.queries import RunSummary, run_summaries
from tasks.workspace.files import write_atomically
from tasks.workspace.paths import metrics_file, report_file
from tasks.workspace.report import STATE_DICT_KEY

REMEMBERED = Path(".dvc/tmp/results.json")  # MLflow's last answer, and the state of its files at that time
DASH = "–"
COLUMNS = ("parameters", "epochs", "test loss", "metric", "validation", "test", "train seconds", "diagnosis")
YARDSTICK = "yardstick"  # in place of a diagnosis: a model of scikit-learn's, which is never champion
LARGE = 1000  # a number that is not smaller is shown without decimals
LEFT = ("metric", "diagnosis", "champion")  # columns aligned to the left; the others are numbers
# What a narrow terminal does not show, the highest first.
RANKS = {"dataset": 1, "metric": 3, "diagnosis": 4, "parameters": 5, "epochs": 6, "test loss": 7, "train seconds": 8}
LEAST_IMPORTANT = 9
CAPTION = (
    "ranked by the dataset's metric on its validation part, or on its test part if it has no validation part;\n"
    "± is half of the 95 % interval, or with n seeds the standard deviation over these"
)


def results(params: Params) -> tuple[list[dict[str, Any]], str]:
    """Returns one row for each evaluated experiment, grouped by dataset, best first by the metric that decides.

    Returns:
        The rows, and why they lack what MLflow knows; "" if MLflow answered.
    """
    why = ""
    rows = []
    for name, experiment in params.experiments.items():
        files = metrics_file(experiment.dataset, name), report_file(experiment.dataset, name)
        if all(file.is_file() for file in files):
            numbers, report = (json.loads(file.read_bytes()) for file in files)
            rows.append(
                {
                    "dataset": experiment.dataset,
                    "experiment": name,
                    **numbers,
                    "metric": params.datasets[experiment.dataset].champion.metric,
                    "diagnosis": report["diagnosis"]["summary"],
                    "intervals": report.get("intervals", {}),
                    "yardsticks": report.get("yardsticks", {}),
                    STATE_DICT_KEY: report[STATE_DICT_KEY],
                }
            )
    if rows and (store := store_in(params)):
        digests = {(row["dataset"], row["experiment"]): row[STATE_DICT_KEY] for row in rows}
        try:
            known = _tracked(store, digests)
        except TrackingError as error:
            known, why = {}, f"the table is without champions and seconds, for MLflow could not be asked: {error}"
        for row in rows:
            if run := known.get((row["dataset"], row["experiment"])):
                row |= asdict(run)
    found = []
    for name, dataset in params.datasets.items():
        own = [row for row in rows if row["dataset"] == name]
        found += ranked(own, dataset.split.held_out, dataset.champion.metric)
    return found, why


def _tracked(store: Store, digests: dict[tuple[str, str], str]) -> dict[tuple[str, str], RunSummary]:
    """Returns what `run_summaries` returns.

    Importing MLflow takes two seconds, so the answer of a SQLite store is kept as long as none of its files changes.

    Args:
        store: The store.
        digests: (dataset, experiment) → sha256 of the state_dict.

    Raises:
        TrackingError: The store cannot be used.
    """
    database = address(store.uri).file
    if not database:
        return run_summaries(store, digests)
    files = [file.stat() for file in sorted(database.parent.glob(f"{database.name}*"))]
    asked = [
        [str(database.absolute()), *([file.st_mtime_ns, file.st_size] for file in files)],
        [[store.name(dataset), name, digest] for (dataset, name), digest in digests.items()],
        [field.name for field in fields(RunSummary)],  # another version of Trackway asked for others
    ]
    try:
        remembered = json.loads(REMEMBERED.read_bytes())
        if remembered["asked"] == asked:
            return {(dataset, name): RunSummary(**found) for dataset, name, found in remembered["known"]}
    except (OSError, ValueError, TypeError, KeyError):
        pass  # nothing was kept, or another version of Trackway wrote it
    known = run_summaries(store, digests)
    if files:
        kept = {"asked": asked, "known": [[*key, asdict(found)] for key, found in known.items()]}
        write_atomically(REMEMBERED, json.dumps(kept).encode())
    return known


def with_yardsticks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows, and after those of each table the rows of its yardsticks, which are no experiments.

    Args:
        rows: What `results` returns.
    """
    found = []
    for _, group in groupby(rows, lambda row: row["dataset"]):
        own = list(group)
        found += own
        for name, measured in next((row["yardsticks"] for row in own if row.get("yardsticks")), {}).items():
            parts = {part: values for part, values in measured.items() if part not in ("test", "intervals")}
            about = {key: own[0][key] for key in ("dataset", "metric")}
            found.append({**measured["test"], **parts, **about, "experiment": name, "intervals": measured["intervals"]})
    return found


def not_measured(params: Params, rows: list[dict[str, Any]]) -> list[str]:
    """Returns a sentence for each dataset whose experiments lack the metric that decides.

    This happens if params.yaml has changed since they were evaluated.
    """
    said = []
    for name, own in groupby(rows, lambda row: row["dataset"]):
        dataset = params.datasets[name]
        part, metric = dataset.split.held_out, dataset.champion.metric
        if any(metric_of(row, part, metric) is None for row in own):
            said.append(f"{name}: {part} {metric}, which decides, is not measured yet; next: dvc repro")
    return said


def publish(params: Params) -> None:
    """Publishes the results as an artifact of the flow run on Prefect's page, with links to the runs in MLflow.

    Each dataset's comparison goes to MLflow as a page, to which the artifact links.
    """
    from prefect import get_run_logger
    from prefect.artifacts import create_markdown_artifact

    from flows.reports.comparison.publish import log_reports

    rows, why = results(params)
    pages: dict[str, str] = {}
    if why:
        get_run_logger().warning(why)
    elif params.tracking:
        try:
            pages = log_reports(params, rows)
        except Exception as error:  # MLflow or a file failed, but the stages have succeeded
            get_run_logger().warning(f"MLflow has no new comparison: {type(error).__name__}: {error}")
    mlflow = "" if why else mlflow_address(params)
    create_markdown_artifact(
        markdown(rows, mlflow, pages),
        key="results",
        description="Every experiment that has been evaluated, best first. The links open its run in MLflow.",
    )


def table(rows: list[dict[str, Any]], width: int) -> Layout:
    """Returns the rows as a table for a terminal of this width."""
    rows = with_yardsticks(rows)
    every = columns = _columns(rows)
    if not fits([column for column in columns if not column.rank], width):
        columns = _columns(rows, merged=True)
    datasets = [row["dataset"] for row in rows]
    ends = [number for number, (one, other) in enumerate(pairwise(datasets)) if one != other]
    layout = replace(lay_out(columns, width, ends), needed=needed(every))
    layout.view.caption = CAPTION
    return layout


def _columns(rows: list[dict[str, Any]], *, merged: bool = False) -> list[Column]:
    """Returns the table's columns; the values that decide stand in one column if `merged`."""
    cells = dict(zip((*COLUMNS, "champion"), zip(*map(_cells, rows), strict=True), strict=True))
    by_validation = [value != DASH for value in cells["validation"]]
    ranks = RANKS | {"validation": 0 if any(by_validation) else LEAST_IMPORTANT, "test": 2 if all(by_validation) else 0}
    found = [
        Column("dataset", tuple(row["dataset"] for row in rows), ranks["dataset"]),
        Column("experiment", tuple(row["experiment"] for row in rows), folds=True),
    ]
    for title in (*COLUMNS, "champion"):
        is_number = title not in LEFT
        if title == "validation" and merged:
            both = zip(cells["validation"], cells["test"], strict=True)
            deciding = tuple(test if value == DASH else value for value, test in both)
            found.append(Column("validation\nor test", deciding, is_number=True))
            ranks["test"] = LEAST_IMPORTANT
            continue
        shown = title.replace(" ", "\n") if is_number else title
        found.append(Column(shown, cells[title], ranks.get(title, 0), is_number, wraps=title == "diagnosis"))
    return found


def _cells(row: dict[str, Any]) -> list[str]:
    values = [row["metric"], *(_value(row, part) for part in ("validation", "test"))]
    if "parameters" not in row:
        return [DASH, DASH, DASH, *values, DASH, YARDSTICK, ""]
    return [
        f"{row['parameters']:,}",
        f"{row['epochs']:,}",
        _number(row["loss"]),
        *values,
        f"{row['seconds']:.1f}" if row.get("seconds") is not None else DASH,
        row["diagnosis"],
        "champion" if row.get("champion") else "challenger" if row.get("challenger") else "",
    ]


def _number(value: float) -> str:
    """Returns a metric as text, without decimals if it is large, as an error in a table's own unit may be."""
    return f"{value:.5f}" if abs(value) < LARGE else f"{value:,.0f}"


def _value(row: dict[str, Any], part: str) -> str:
    """Returns the dataset's metric on a split as text, with half of its 95 % interval, or its spread over the seeds."""
    value = metric_of(row, part, row["metric"])
    if value is None:
        return DASH
    low, high = row.get("intervals", {}).get(part, {}).get(row["metric"], (value, value))
    spread = metric_of(row.get("sd", {}), part, row["metric"])
    off = (high - low) / 2 if spread is None else spread
    if row["metric"] == "accuracy":
        text = f"{value:.2%} ±{off:.1%}".removesuffix("%") if off else f"{value:.2%}"
    else:
        digits = f"{off:.1g}" if abs(value) < LARGE else f"{float(f'{off:.1g}'):,.0f}"
        text = f"{_number(value)} ±{digits}" if off else _number(value)
    return text if spread is None else f"{text} (n={len(row['seeds'])})"


def markdown(rows: list[dict[str, Any]], mlflow: str, pages: dict[str, str]) -> str:
    """Returns the rows as a table in Markdown for Prefect's page, with links to each run and to all of a dataset.

    Args:
        rows: What `results` returns.
        mlflow: Address of the MLflow server.
        pages: Dataset → place of its comparison below that address.
    """
    lines = ["| dataset | experiment | " + " | ".join(COLUMNS) + " | champion |", "|" + " --- |" * (len(COLUMNS) + 3)]
    for row in with_yardsticks(rows):
        dataset, name = row["dataset"], row["experiment"]
        if "page" in row:
            runs = row["page"].rpartition("/")[0]  # the page of all runs
            dataset = f"[{dataset}]({mlflow}/{runs}?viewStateShareKey={VIEW_KEY})"
            name = f"[{name}]({mlflow}/{row['page']})"
        lines.append("| " + " | ".join([dataset, name, *_cells(row)]) + " |")
    links = ", ".join(f"[{dataset}]({mlflow}/{place})" for dataset, place in pages.items())
    decisions = [(row["dataset"], row[key]) for row in rows for key in ("decision", "verdict") if row.get(key)]
    decided = [f"- {dataset}: {escaped(text)}" for dataset, text in dict.fromkeys(decisions)]
    return "\n".join([*lines, "", CAPTION, "", *decided, *(["", f"In detail: {links}"] if links else [])])
