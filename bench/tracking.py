"""(b) A training run with MLflow on against off."""

from __future__ import annotations

from pathlib import Path

from bench.common import in_turns, median, mirror, project, run, show

TIMES = 5
ON, OFF = "tracking: sqlite:///mlruns/mlflow.db", "tracking: null"


def main() -> None:
    rows = []
    with project() as folder:
        names = ["digits-mlp", "circles-relu"]
        stages = [f"transform@{dataset}" for dataset in ("digits", "circles")]
        if mirror():
            run(folder, "python", "-m", "flows.cli", "add", "fashion_mnist")
            names += ["fashion-v0", "fashion-v2"]
            stages.append("transform@fashion_mnist")
        run(folder, "dvc", "repro", "--quiet", *stages)
        for name in names:
            run(folder, "python", "-m", "tasks.train", name)  # the store, the caches
            times = TIMES if name != "fashion-v2" else 3

            def train(switch: str, name: str = name) -> float:
                _switch(folder, switch)
                return run(folder, "python", "-m", "tasks.train", name)

            off, on = in_turns(times, lambda: train(OFF), lambda: train(ON))
            more = median([b - a for a, b in zip(off, on, strict=True)])
            allowed = 0.05 * median(off) + 1
            rows.append([
                name,
                str(times),
                f"{median(off):.2f} s",
                f"{median(on):.2f} s",
                f"{more:+.2f} s",
                f"{allowed:.2f} s",
            ])  # fmt: skip
    show(
        "(b) `python -m tasks.train`, whole process, MLflow off and on in turns, medians",
        ["experiment", "times", "off", "on", "more", "5% + 1 s"],
        rows,
    )


def _switch(folder: Path, value: str) -> None:
    params = folder / "params.yaml"
    text = params.read_text(encoding="utf-8")
    params.write_text(text.replace(ON, value).replace(OFF, value), encoding="utf-8")
    run(folder, "python", "-m", "flows.cli", "check")  # so that no run pays for the check of the changed file


if __name__ == "__main__":
    main()
