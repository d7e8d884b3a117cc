"""Writes the names of each dataset's experiments to `data/experiments/D.txt`, one on each line.

    python -m tasks.group experiments

These files are inputs of `register`, so that an experiment that is removed, renamed or moved to another dataset leaves
the comparison. DVC cannot extract the names from `params.yaml` itself; with the whole section as input, each changed
learning rate would run `register` again for every dataset.
"""

from __future__ import annotations

from pathlib import Path

from learn.errors import ParamsError
from tasks.params import Params
from tasks.stage import run_stage
from tasks.workspace.files import atomic_folder

EXPERIMENTS = Path("data/experiments")


def group(params: Params, name: str) -> str:
    """Writes which experiments each dataset has. name: the section, experiments."""
    if name != EXPERIMENTS.name:
        raise ParamsError([f"{name} cannot be grouped; it must be {EXPERIMENTS.name}"])
    with atomic_folder(EXPERIMENTS) as partial:
        for dataset in params.datasets:
            names = "".join(f"{experiment}\n" for experiment in sorted(params.experiments_of(dataset)))
            (partial / f"{dataset}.txt").write_text(names, encoding="utf-8")
    print(made := f"group: {len(params.experiments)} experiments of {len(params.datasets)} datasets → {EXPERIMENTS}")
    return made


if __name__ == "__main__":
    run_stage(group, "sections")
