"""The metrics of each epoch as a file, and the mean of several trainings."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from math import fsum
from pathlib import Path

History = list[dict[str, float]]  # one mapping for each epoch: full name, such as `train/loss`, → value


def as_csv(history: History) -> bytes:
    """Returns a table with one row per epoch, with all digits, and without numbers that differ between runs."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *history[0]])
    writer.writerows([number, *map(repr, metrics.values())] for number, metrics in enumerate(history, 1))
    return text.getvalue().encode()


def read_history(file: Path) -> History:
    """Returns the metrics of each epoch."""
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [{key: float(value) for key, value in row.items() if key != "epoch"} for row in rows]


def mean_history(histories: Sequence[History]) -> History:
    """Returns the mean of each metric in each epoch, over the trainings that had so many epochs."""
    means, longest = [], max(histories, key=lambda history: len(history))
    for number, metrics in enumerate(longest):
        there = [history[number] for history in histories if number < len(history)]
        means.append({key: fsum(each[key] for each in there) / len(there) for key in metrics})
    return means
