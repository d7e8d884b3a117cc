"""(h) Stages that start warm against cold ones: what a person waits for, without and with `trackway up`."""

from __future__ import annotations

import itertools
import os
import socket

from bench.common import in_turns, median, median_ratio, project, run, show
from tasks.workspace.environment import WARM

TIMES = 3
TRACKWAY = ("python", "-m", "flows.cli")
MLP = "optimizer: {name: SGD, lr: 0.1}"  # digits-mlp's, in params.yaml
COLD = {WARM: "off"}


def main() -> None:
    def from_scratch(**environment: str) -> float:
        with project() as folder:
            return run(folder, *TRACKWAY, "run", output=str, **environment)

    measured = {
        "trackway run, nothing made before": in_turns(TIMES, lambda: from_scratch(**COLD), from_scratch),
    }
    with project() as folder:
        rates = itertools.count()

        def after_a_change(*command: str, **environment: str) -> float:
            text = (folder / "params.yaml").read_text(encoding="utf-8")
            before, experiment, after = text.partition("  digits-mlp:\n")
            changed = before + experiment + after.replace(MLP, MLP.replace("0.1", f"0.1{next(rates) + 1:03}"), 1)
            (folder / "params.yaml").write_text(changed, encoding="utf-8")
            try:
                return run(folder, *command, output=str, **environment)
            finally:
                (folder / "params.yaml").write_text(text, encoding="utf-8")

        def both(command: tuple[str, ...], change: bool) -> list[list[float]]:
            call = after_a_change if change else lambda *words, **names: run(folder, *words, **names)
            return in_turns(TIMES, lambda: call(*command, **COLD), lambda: call(*command))

        run(folder, *TRACKWAY, "run")
        measured["trackway run, nothing to do"] = both((*TRACKWAY, "run"), change=False)
        measured["trackway results"] = both((*TRACKWAY, "results"), change=False)
        run(folder, *TRACKWAY, "up", *_ports())
        try:
            for command in ((*TRACKWAY, "run"), ("dvc", "repro")):
                name = " ".join(command).replace("python -m flows.cli", "trackway")
                measured[f"digits-mlp's lr changed, {name} with trackway up"] = both(command, change=True)
            measured["trackway run, nothing to do, with trackway up"] = both((*TRACKWAY, "run"), change=False)
        finally:
            run(folder, *TRACKWAY, "down")
    show(
        f"(h) warm starts on {os.cpu_count()} cores, medians of {TIMES} in turns, seconds",
        ["what", "cold", "warm", "cold ÷ warm"],
        [
            [what, f"{median(cold):.1f}", f"{median(warm):.1f}", f"{median_ratio(cold, warm):.1f}×"]
            for what, (cold, warm) in measured.items()
        ],
    )


def _ports() -> list[str]:
    """Two that nobody listens on."""
    with socket.socket() as prefect, socket.socket() as mlflow:
        for probe in (prefect, mlflow):
            probe.bind(("127.0.0.1", 0))
        return [f"--prefect-port={prefect.getsockname()[1]}", f"--mlflow-port={mlflow.getsockname()[1]}"]


if __name__ == "__main__":
    main()
