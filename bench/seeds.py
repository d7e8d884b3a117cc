"""(n) Five seeds against one: what the train stage of digits-mlp costs beyond five times the epochs of one."""

from __future__ import annotations

import os

from bench.common import in_turns, median, project, run, show

TIMES = 3
ONE, FIVE = "batch_size: 32\n    seed: 42\n", "batch_size: 32\n    seeds: [42, 43, 44, 45, 46]\n"
EPOCHS = """
import mlflow
client = mlflow.MlflowClient("sqlite:///mlruns/mlflow.db")
experiment = client.get_experiment_by_name("digits").experiment_id
print(client.search_runs([experiment], max_results=1, order_by=["start_time DESC"])[0].data.metrics["train/seconds"])
"""


def main() -> None:
    epochs: list[float] = []
    with project() as folder:
        file = folder / "params.yaml"
        text = file.read_text(encoding="utf-8")

        def train(seeds: str) -> float:
            before, experiment, after = text.partition("  digits-mlp:\n")
            file.write_text(before + experiment + after.replace(ONE, seeds, 1), encoding="utf-8")
            seconds = run(folder, "python", "-m", "tasks.train", "digits-mlp")
            if seeds == ONE:
                run(folder, "python", "-c", EPOCHS, output=lambda shown: epochs.append(float(shown)))
            return seconds

        run(folder, "dvc", "repro", "--quiet", "transform@digits")
        run(folder, "python", "-m", "tasks.train", "digits-mlp")  # the store, the caches
        one, five = in_turns(TIMES, lambda: train(ONE), lambda: train(FIVE))
    allowed = 4 * median(epochs) + 2
    show(
        f"(n) the train stage of digits-mlp on {os.cpu_count()} cores, cold, medians of {TIMES} in turns, seconds",
        ["one seed", "of it epochs", "five seeds", "more", "4 × epochs + 2"],
        [
            [
                f"{value:.2f}"
                for value in (median(one), median(epochs), median(five), median(five) - median(one), allowed)
            ]
        ],
    )


if __name__ == "__main__":
    main()
