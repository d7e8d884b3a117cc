"""(i) Many experiments: what 7, 50 and 200 of them in params.yaml cost where nothing is to be done, and per stage."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from bench.common import in_turns, median, project, run, show

TIMES = 3
COUNTS = (7, 50, 200)
ONE = "digits-mlp"  # the experiment of which there are many
FILES = (
    "models/{}",
    "plots/history/{}.csv",
    "plots/predictions/{}.csv",
    "metrics/digits/{}.json",
    "metrics/digits/{}.report.json",
)


def main() -> None:
    rows = []
    for count in COUNTS:
        with project() as folder:
            _fill(folder, count)
            flow, status, repro = in_turns(
                TIMES,
                lambda: run(folder, "python", "-m", "flows.cli", "run"),
                lambda: run(folder, "dvc", "status"),
                lambda: run(folder, "dvc", "repro", "--single-item", "--force", "split@line"),
            )
            entries = (folder / "dvc.lock").read_text(encoding="utf-8")
            lines = len(entries.splitlines()) / len(re.findall(r"^  \S+@\S+:$", entries, re.MULTILINE))
        rows.append([str(count), f"{lines:.0f}", *(f"{median(seconds):.1f}" for seconds in (flow, status, repro))])
    show(
        f"(i) many experiments on {os.cpu_count()} cores, medians of {TIMES} in turns, seconds",
        [
            "experiments",
            "lines of dvc.lock a stage",
            "trackway run, nothing to do",
            "dvc status",
            "dvc repro, one stage",
        ],
        rows,
    )


def _fill(folder: Path, count: int) -> None:
    """Runs everything in a project without MLflow; then copies one experiment, its outputs and its entries of dvc.lock
    until there are so many."""
    params, lock = folder / "params.yaml", folder / "dvc.lock"
    text = re.sub(r"^tracking:.*$", "tracking: null", params.read_text(encoding="utf-8"), flags=re.MULTILINE)
    params.write_text(text, encoding="utf-8")
    run(folder, "dvc", "repro")
    shipped = len(re.findall(r"^  train@", lock.read_text(encoding="utf-8"), re.MULTILINE))
    for number in range(shipped, count):
        name = f"{ONE}-{number}"
        for file, pattern in ((params, rf"^  {ONE}:\n(?:    .*\n)+"), (lock, rf"^  \w+@{ONE}:\n(?:   .*\n)+")):
            entries = re.findall(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
            with file.open("a", encoding="utf-8") as stream:
                stream.write("".join(entry.replace(ONE, name) for entry in entries))
        for made in FILES:
            source, target = folder / made.format(ONE), folder / made.format(name)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    run(folder, "dvc", "repro")  # the list of experiments and the comparison


if __name__ == "__main__":
    main()
