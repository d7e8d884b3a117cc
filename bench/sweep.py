"""(j) A sweep against `dvc exp run` for each trial, both cold: what a trial of digits-mlp costs beyond its training."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from bench.common import in_turns, median, project, run, show
from tasks.workspace.environment import WARM

TRIALS = 30
TIMES = 3  # `dvc exp run` is measured so often
AUTHOR = ("-c", "user.name=Bench", "-c", "user.email=bench@example.org", "-c", "commit.gpgsign=false")
RATE = "experiments.digits-mlp.optimizer.lr"
TRAINED = """
from tasks.sweep.storage import last_identity, open_sweep
print(sum(result.outcome.seconds for result in open_sweep(last_identity("digits-mlp")).results()))
"""


def main() -> None:
    with project() as folder:

        def cold(*command: str) -> float:
            return run(folder, *command, output=str, **{WARM: "off"})

        run(folder, "dvc", "repro", "--quiet")
        run(folder, "git", "add", "--all")
        run(folder, "git", *AUTHOR, "commit", "--quiet", "--message", "results")
        rates = itertools.count(20)
        experiment = ("dvc", "exp", "run", "evaluate@digits-mlp", "-S")
        (by_dvc,) = in_turns(TIMES, lambda: cold(*experiment, f"{RATE}=0.0{next(rates)}"))
        run(folder, "git", "checkout", "params.yaml")
        sweep = ("sweep", "digits-mlp", "-S", "optimizer.lr=loguniform(1e-4,1)", "--trials", str(TRIALS))
        whole = cold("python", "-m", "flows.cli", *sweep)
        trained = _trained(folder)
    one, each = median(by_dvc), whole / TRIALS
    show(
        f"(j) a trial of digits-mlp on {os.cpu_count()} cores, seconds: {TRIALS} in a sweep, {TIMES} by DVC",
        ["dvc exp run", "sweep", "of it training", "beyond training", "dvc exp run ÷ sweep"],
        [[*(f"{value:.2f}" for value in (one, each, trained, each - trained)), f"{one / each:.1f}×"]],
    )


def _trained(folder: Path) -> float:
    """Seconds that the epochs of a trial took, on average."""
    printed: list[str] = []
    run(folder, "python", "-c", TRAINED, output=printed.append)
    return float(printed[0]) / TRIALS


if __name__ == "__main__":
    main()
