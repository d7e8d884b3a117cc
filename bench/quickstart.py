"""(d) The whole quickstart, cold, against what its trainings themselves take, and where the rest goes."""

from __future__ import annotations

import os
from pathlib import Path

from bench.common import median, project, run, show

TIMES = 3
# library → (stages of the shipped params.yaml that import it, code)
IMPORTS = {
    "torch": (14, "import torch"),
    "torch's compiler (for optimizers, export)": (14, "import torch, torch.export._trace"),
    "mlflow with its store": (18, "import mlflow.store.tracking.sqlalchemy_store"),
    "scikit-learn": (14, "import sklearn.metrics"),
    "matplotlib": (7, "import matplotlib.figure"),
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

    def line(what: str, times: int, each: float) -> list[str]:
        return [what, str(times), f"{each:.2f}", f"{times * each:.1f}"]

    rows = [
        line("whole run, nothing made before", 1, median(cold)),
        line("of it: the trainings' epochs", 7, median(trained) / 7),
        line("whole run, everything up to date: Prefect, DVC's graph", 1, median(warm)),
        line("dvc repro -s, nothing to do", 30, stage),
    ]
    for what, seconds in imports.items():
        times, _ = IMPORTS[what]
        rows.append(line(f"import {what}", times, seconds - (imports["torch"] if "compiler" in what else python)))
    show(
        f"(d) quickstart on {os.cpu_count()} cores, environment installed, medians of {TIMES}, seconds",
        ["what", "times", "each", "all"],
        rows,
        "two stages run at a time, so the lower six lines take about half as long on the clock",
    )


def _train_seconds(folder: Path) -> float:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return sum(run.data.metrics["train/seconds"] for run in client.search_runs(experiments))


if __name__ == "__main__":
    main()
