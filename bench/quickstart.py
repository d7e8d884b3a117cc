"""(d) The whole quickstart, cold, against what its trainings themselves take, and where the rest goes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench.common import median, project, run, show

TIMES = 3
# what a stage of each kind imports: (stages of the shipped params.yaml, code)
IMPORTS = {
    "torch (train, evaluate)": (14, "import torch"),
    "torch's compiler, which its optimizers and its export import (train, evaluate)": (
        14,
        "import torch, torch.export._trace",
    ),
    "mlflow with its store (train, evaluate, register)": (18, "import mlflow.store.tracking.sqlalchemy_store"),
    "scikit-learn (download, split, evaluate)": (14, "import sklearn.metrics"),
    "matplotlib (evaluate)": (7, "import matplotlib.figure"),
}


def main() -> None:
    cold, warm, trained = [], [], []
    for _ in range(TIMES):
        with project() as folder:
            cold.append(run(folder, "python", "-m", "flows.cli", "run"))
            warm.append(run(folder, "python", "-m", "flows.cli", "run"))
            trained.append(_train_seconds(folder))
            stage = median([run(folder, "dvc", "repro", "--quiet", "-s", "train@digits-mlp") for _ in range(3)])
            python = median([run(folder, "python", "-c", "pass") for _ in range(3)])
            imports = {
                what: median([run(folder, "python", "-c", code) for _ in range(3)])
                for what, (_, code) in IMPORTS.items()
            }
    rows = [
        ["whole run, nothing made before", f"{median(cold):.1f} s"],
        ["of which its seven trainings' epochs", f"{median(trained):.1f} s"],
        ["whole run, everything up to date (Prefect's server, its 30 tasks, DVC's graph)", f"{median(warm):.1f} s"],
        [f"DVC, 30 × `dvc repro -s` with nothing to do, one after another ({stage:.2f} s each)", f"{30 * stage:.1f} s"],
    ]
    torch = imports["torch (train, evaluate)"]
    for what, seconds in imports.items():
        own = seconds - (torch if "compiler" in what else python)
        rows.append(
            [
                f"imports of {what}, {IMPORTS[what][0]} × {own:.2f} s, one after another",
                f"{IMPORTS[what][0] * own:.1f} s",
            ]
        )
    show(
        f"(d) quickstart on {os.cpu_count()} cores, environment installed, medians of {TIMES}",
        ["what", "seconds"],
        rows,
        "two stages run at a time: the lines below the third are processor time, their wall time is about half",
    )


def _train_seconds(folder: Path) -> float:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return sum(run.data.metrics["train/seconds"] for run in client.search_runs(experiments))


if __name__ == "__main__":
    sys.exit(main())
