"""The comparison of all experiments: from DVC's metrics, with what only MLflow knows (seconds, champions)."""

from __future__ import annotations

import json
from typing import Any

from rich import box
from rich.table import Table

from flows.servers import mlflow_address
from learn.metrics import METRICS
from learn.params import Params
from tasks.stage import metrics_file, report_file
from tasks.tracking import STATE_DICT, tracked

DASH = "–"
COLUMNS = ("parameters", "epochs", "test loss", "test accuracy", "train seconds", "diagnosis")


def results(params: Params) -> list[dict[str, Any]]:
    """One row an experiment that has been evaluated, grouped by dataset, best first by the dataset's metric."""
    rows = []
    for name, experiment in params.experiments.items():
        files = metrics_file(experiment.dataset, name), report_file(experiment.dataset, name)
        if all(file.is_file() for file in files):
            metrics, report = (json.loads(file.read_bytes()) for file in files)
            rows.append(
                {
                    "dataset": experiment.dataset,
                    "experiment": name,
                    **metrics,
                    "diagnosis": report["diagnosis"]["summary"],
                    STATE_DICT: report[STATE_DICT],
                }
            )
    if params.tracking and rows:
        digests = {(row["dataset"], row["experiment"]): row[STATE_DICT] for row in rows}
        known = tracked(params.tracking, digests)
        for row in rows:
            if run := known.get((row["dataset"], row["experiment"])):
                row |= {"seconds": run.seconds, "champion": run.champion, "page": run.page}
    order = {name: number for number, name in enumerate(params.datasets)}

    def key(row: dict[str, Any]) -> tuple[int, float]:
        metric = params.datasets[row["dataset"]].champion.metric
        return order[row["dataset"]], -row[metric] if METRICS[metric].better == "higher" else row[metric]

    return sorted(rows, key=key)


def publish(params: Params) -> None:
    """The results as an artifact of the flow run on Prefect's page, with links to the runs on MLflow's."""
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(
        markdown(results(params), mlflow_address()),
        key="results",
        description="Every experiment that has been evaluated, best first. The links open its run in MLflow.",
    )


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for the terminal."""
    view = Table(box=box.SIMPLE_HEAD)
    for column in ("dataset", "experiment"):
        view.add_column(column, no_wrap=True)
    for column in COLUMNS:
        if column == "diagnosis":
            view.add_column(column, min_width=len(column))
        else:
            view.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True)
    view.add_column("champion", no_wrap=True)
    for number, row in enumerate(rows):
        last = number + 1 == len(rows) or rows[number + 1]["dataset"] != row["dataset"]
        view.add_row(
            row["dataset"],
            row["experiment"],
            *_cells(row),
            end_section=last,
        )
    return view


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['parameters']:,}",
        f"{row['epochs']:,}",
        f"{row['loss']:.5f}",
        f"{row['accuracy']:.2%}" if "accuracy" in row else DASH,
        f"{row['seconds']:.1f}" if row.get("seconds") is not None else DASH,
        row["diagnosis"],
        "champion" if row.get("champion") else "",
    ]


def markdown(rows: list[dict[str, Any]], mlflow: str) -> str:
    """The rows for Prefect's page, each with a link to its run. mlflow: the server's address."""
    lines = ["| dataset | experiment | " + " | ".join(COLUMNS) + " | champion |", "|" + " --- |" * (len(COLUMNS) + 3)]
    for row in rows:
        name = f"[{row['experiment']}]({mlflow}/{row['page']})" if "page" in row else row["experiment"]
        lines.append("| " + " | ".join([row["dataset"], name, *_cells(row)]) + " |")
    return "\n".join(lines)
