"""(j) Comparing 200 experiments of one dataset: the page, and the terminal's table, whole commands.

The first command after a change asks MLflow; those after it find its answer kept.
"""

from __future__ import annotations

import os
from pathlib import Path

from ruamel.yaml import YAML

from bench.common import in_turns, median, project, run, show
from tasks.tracking.store import connect
from tasks.tracking.tags import STAGE, STATE_DICT
from tests.support.outputs import DATASETS, experiment, predicted, write_outputs

TIMES = 3
EXPERIMENTS = 200
TEST, VALIDATION, EPOCHS = 1000, 500, 100  # samples, samples, epochs of each experiment
ALLOWED = (10.0, 3.0)  # seconds


def main() -> None:
    rows = []
    for dataset, decides in (("digits", "accuracy, McNemar's test"), ("line", "mae, randomization")):
        with project() as folder:
            _fill(folder, dataset)
            _log_runs(folder, dataset)
            command = ("python", "-m", "flows.cli", "compare", dataset)
            first = run(folder, *command)
            page, table = in_turns(
                TIMES,
                lambda folder=folder, command=command: run(folder, *command, "--out", "report.html"),  # type: ignore[misc]
                lambda folder=folder, command=command: run(folder, *command),  # type: ignore[misc]
            )
            size = (folder / "report.html").stat().st_size / 1e6
        rows.append(
            [
                f"{dataset}: {decides}",
                f"{median(page):.1f} s",
                f"{size:.2f} MB",
                f"{median(table):.1f} s",
                f"{first:.1f} s",
            ]
        )
    rows.append(["allowed", f"{ALLOWED[0]:.0f} s", "5 MB", f"{ALLOWED[1]:.0f} s", ""])
    show(
        f"(j) `trackway compare` of {EXPERIMENTS} experiments on {os.cpu_count()} cores, medians of {TIMES} in turns",
        ["dataset", "page", "its size", "table", "table, the first time"],
        rows,
    )


def _fill(folder: Path, dataset: str) -> None:
    """Writes params.yaml with so many experiments of one dataset, and the outputs of each; nothing is trained."""
    file, yaml = folder / "params.yaml", YAML()
    params = yaml.load(file)
    params["datasets"] = {dataset: DATASETS[dataset]}
    names = [f"experiment-{number}" for number in range(EXPERIMENTS)]
    params["experiments"] = {
        name: experiment(dataset, optimizer={"name": "SGD", "lr": 0.001 * (number + 1)})
        for number, name in enumerate(names)
    }
    yaml.dump(params, file)
    for number, name in enumerate(names):
        splits = {
            split: predicted(dataset, samples, 1 + samples * (5 + number) // 1000, number)
            for split, samples in (("validation", VALIDATION), ("test", TEST))
            if split == "test" or DATASETS[dataset]["split"].get("validation")
        }
        curve = [1 / epoch + 0.001 * number for epoch in range(1, EPOCHS + 1)]
        write_outputs(name, dataset, splits, curve, folder)


def _log_runs(folder: Path, dataset: str) -> None:
    """Writes a run for each experiment into the project's MLflow store."""
    with connect(f"sqlite:///{folder}/mlruns/mlflow.db") as client:
        found = client.create_experiment(dataset)
        for number in range(EXPERIMENTS):
            name = f"experiment-{number}"
            run = client.create_run(found, tags={STAGE: f"train@{name}", STATE_DICT: name})
            client.log_param(run.info.run_id, "device", "cpu")
            client.log_metric(run.info.run_id, "train/seconds", 1.0)


if __name__ == "__main__":
    main()
