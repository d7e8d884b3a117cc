"""Hurts finished projects in every way we know, and counts what survives: `make torture`.

    python -m tests.torture                      # everything; two hours or more on two cores
    python -m tests.torture kills disks          # families, or words of a scenario's name
    python -m tests.torture --seed 7 --tries 2   # other random moments, and at most two trials of each

A trial that loses something prints its evidence and its project stays; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from rich import box
from rich.console import Console
from rich.table import Table

from tests.support.project import Project
from tests.torture import cluster, disks, inputs, kills, servers, together
from tests.torture.common import Ground, Lost, Missed, Scenario

FAMILIES = {
    "kills": kills,
    "disks": disks,
    "servers": servers,
    "cluster": cluster,
    "together": together,
    "inputs": inputs,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help=f"{', '.join(FAMILIES)}, or words of a scenario's name; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--tries", type=int, default=1000, help="trials of a scenario at most")
    parser.add_argument("--finished", type=Path, help="a finished project to start from, instead of making one")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    ground = Ground(folder, Project(options.finished) if options.finished else None)
    with ground.until_end:
        counts = [
            tortured(ground, scenario, options.seed, options.tries)
            for family, module in FAMILIES.items()
            for scenario in module.SCENARIOS
            if not options.words or any(word == family or word in scenario.name for word in options.words)
        ]
    show(counts)
    if any(count.lost for count in counts):
        sys.exit(f"the projects that lost something are in {folder}")
    shutil.rmtree(folder)


@dataclass
class Count:
    """How a scenario's trials ended."""

    name: str
    tried: int = 0
    lost: int = 0
    skipped: int = 0


def tortured(ground: Ground, scenario: Scenario, seed: int, most: int) -> Count:
    count = Count(scenario.name)
    tries = min(scenario.tries, most)
    for number in range(1, tries + 1):
        random = Random(f"{seed}/{scenario.name}/{number}")
        began = time.monotonic()
        print(f"{scenario.name}, {number}/{tries}:", end=" ", flush=True)
        try:
            evidence = lost(ground, scenario, random)
        except pytest.skip.Exception as skipped:
            print(f"skipped: {skipped}")
            count.skipped += 1
            continue
        count.tried += 1
        count.lost += bool(evidence)
        print(
            f"{'LOST' if evidence else 'survived'} ({time.monotonic() - began:.0f} s)\n{evidence}", end="", flush=True
        )
    return count


def lost(ground: Ground, scenario: Scenario, random: Random) -> str:
    """What a trial lost, with the evidence; empty if it survived."""
    while True:
        try:
            scenario.trial(ground, random)
            return ""
        except Missed as missed:
            print(missed, end=" ", flush=True)
        except (Lost, pytest.fail.Exception) as error:
            return f"{error}\n"
        except Exception:  # of the trial itself, or of a project too broken to look into: go on with the next
            return traceback.format_exc()


def show(counts: list[Count]) -> None:
    table = Table("scenario", box=box.SIMPLE_HEAD)
    for column in ("tried", "survived", "lost"):
        table.add_column(column, justify="right")
    for count in counts:
        name = f"{count.name} ({count.skipped} skipped)" if count.skipped else count.name
        table.add_row(name, str(count.tried), str(count.tried - count.lost), str(count.lost))
    table.add_section()
    tried, lost = (sum(getattr(count, key) for count in counts) for key in ("tried", "lost"))
    table.add_row("together", str(tried), str(tried - lost), str(lost))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
