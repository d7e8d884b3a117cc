"""What the checks of the transform stage find, and those of classes, which photos and tables share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

IMBALANCE = 3.0  # samples in the largest class divided by those in the smallest, from which classes are imbalanced


@dataclass(frozen=True)
class Problem:
    """One finding of the checks: a sentence for the terminal, and the files, columns or rows that it is about."""

    kind: str
    text: str
    files: list[str]


def class_counts(classes: tuple[str, ...], targets: dict[str, np.ndarray]) -> dict[str, dict[str, int]]:
    """Returns split → class → number of samples.

    Args:
        classes: Names of the classes.
        targets: Split → (N,) int64.
    """
    return {
        part: dict(zip(classes, np.bincount(index, minlength=len(classes)).tolist(), strict=True))
        for part, index in targets.items()
    }


def class_problems(counts: dict[str, dict[str, int]], samples: str) -> Iterator[Problem]:
    """Finds classes that are empty, missing in a split, or imbalanced.

    Args:
        counts: What `class_counts` returns.
        samples: What samples are called, such as `photos`.
    """
    for name in counts["train"]:
        parts = [part for part in counts if counts[part][name]]
        if not parts:
            yield Problem("empty class", f"{name} has no {samples}", [])
        elif len(parts) < len(counts):
            missing = ", ".join(part for part in counts if part not in parts)
            yield Problem("missing class", f"{name} has {samples} in {', '.join(parts)} and none in {missing}", [])
    present = {name: number for name, number in counts["train"].items() if number}
    if present and max(present.values()) >= IMBALANCE * min(present.values()):
        most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        yield Problem(
            "imbalance",
            f"{most} has {present[most]:,} {samples} for training, {least} {present[least]:,}; "
            + _balance(tuple(counts["train"]), present, samples),
            [],
        )


def _balance(classes: tuple[str, ...], present: dict[str, int], samples: str) -> str:
    """Returns advice with class weights that make each class count the same, as scikit-learn's `balanced` does."""
    if len(present) < len(classes):
        return f"more {samples} can make up for it"
    mean = sum(present.values()) / len(classes)
    weights = ", ".join(f"{mean / present[name]:.3g}" for name in classes)
    binary = ""
    if len(classes) == 2:
        binary = f" (for BCEWithLogitsLoss pos_weight: [{present[classes[0]] / present[classes[1]]:.3g}])"
    return f"more {samples}, or loss: {{name: CrossEntropyLoss, weight: [{weights}]}}{binary} can make up for it"
