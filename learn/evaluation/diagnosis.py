"""Tells in words what the curves of a run show, and suggests the course's remedies (chapter 4) as settings.

found = diagnose(history, "test", classes=("pizza", "steak", "sushi"), predictions=predictions)
print(found.text)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

OVERFITTING_RATIO = (
    1.1  # factor by which a loss must rise: the held-out loss for overfitting, the training loss for divergence
)
IMPROVEMENT_SHARE = 0.01  # smallest fraction of the loss that counts as an improvement over the last epochs
CHANCE_LOSS_SHARE = (
    0.9  # training loss divided by the loss of guessing, log(number of classes), above which the model underfits
)

REMEDIES = {
    "constant": "a lower optimizer.lr, more epochs, more model.hidden_units, or inputs that differ",
    "diverged": "a lower optimizer.lr (a tenth), clip_grad_norm: 1.0, or a scheduler that starts low (LinearLR)",
    "overfitting": "augmentation, model.dropout, optimizer.weight_decay, early_stopping, fewer hidden_units, more data",
    "underfitting": "model.activation: ReLU where there is none, more model.hidden_units, a higher optimizer.lr, "
    "more epochs, less weight_decay or dropout",
    "improving": "more epochs; a scheduler (CosineAnnealingLR, StepLR) for the last ones",
    "settled": "",
}
FOR_TABLES = {  # instead of those, where the inputs are the columns of a table
    "constant": "transform.standardize: true, a weight for each class in loss, a lower optimizer.lr, more epochs, or "
    "columns that tell more",
    "overfitting": "optimizer.weight_decay, model.dropout, early_stopping, fewer model.hidden_units, fewer columns, "
    "more rows",
    "underfitting": "transform.standardize: true, more model.hidden_units, model.activation: ReLU where there is none, "
    "a higher optimizer.lr, more epochs, or columns that tell more",
}


@dataclass(frozen=True)
class Diagnosis:
    """What the curves of a run show, in a word, in a few words and in whole sentences."""

    kind: str  # a key of REMEDIES
    summary: str  # a few words for a table
    text: str  # whole sentences, with the remedies


def diagnose(
    history: list[dict[str, float]],
    held_out: str,
    classes: tuple[str, ...],
    predictions: np.ndarray,
    *,
    is_table: bool = False,
) -> Diagnosis:
    """Diagnoses a finished training from its losses and predictions.

    Args:
        history: The metrics of each epoch, as `fit` yields them.
        held_out: The split that was measured after each epoch, `validation` or `test`.
        classes: Names of the classes; empty for regression.
        predictions: (N,) predicted classes of the held-out split; ignored for regression.
        is_table: Whether the inputs are the columns of a table, for which other remedies help than for images.
    """
    remedies = REMEDIES | (FOR_TABLES if is_table else {})
    train, held = ([epoch[f"{part}/loss"] for epoch in history] for part in ("train", held_out))
    best = int(np.argmin(held)) + 1  # the first of the best epochs
    chosen = set(predictions.tolist()) if classes else set()
    if len(chosen) == 1:
        name = classes[chosen.pop()]
        return _found(
            remedies, "constant", f"always {name}", f"it predicts {name} for all of the {held_out} part's samples"
        )
    if not math.isfinite(held[-1]) or train[-1] > OVERFITTING_RATIO * train[0]:
        return _found(
            remedies, "diverged", "diverged", f"the training loss rose from {train[0]:.4f} to {train[-1]:.4f}"
        )
    if held[-1] > OVERFITTING_RATIO * held[best - 1] and train[-1] < train[best - 1]:
        return _found(
            remedies,
            "overfitting",
            f"overfits from {best}",
            f"from epoch {best} on the training loss fell from {train[best - 1]:.4f} to {train[-1]:.4f}, "
            f"while the {held_out} loss rose from {held[best - 1]:.4f} to {held[-1]:.4f}",
        )
    window = max(1, len(history) // 10)
    before = train[-1 - window] if len(history) > window else math.inf
    improving = train[-1] < (1 - IMPROVEMENT_SHARE) * before and held[-1] <= (1 + IMPROVEMENT_SHARE) * held[best - 1]
    if improving and len(history) > 1:
        return _found(
            remedies,
            "improving",
            "still improving",
            f"the {held_out} loss, {held[-1]:.4f}, was still falling when training ended",
        )
    # A binary loss and cross entropy both give log(classes) if the model predicts every class with equal probability.
    if classes and train[-1] > CHANCE_LOSS_SHARE * math.log(len(classes)):
        return _found(
            remedies,
            "underfitting",
            "underfits",
            f"the training loss stayed at {train[-1]:.4f}; guessing gives {math.log(len(classes)):.4f}",
        )
    return _found(
        remedies, "settled", "settled", f"the {held_out} loss settled at {held[-1]:.4f}, its lowest in epoch {best}"
    )


def _found(remedies: dict[str, str], kind: str, summary: str, reason: str) -> Diagnosis:
    help_ = f". What can help: {remedies[kind]}" if remedies[kind] else ""
    return Diagnosis(kind, summary, f"{summary}: {reason}{help_}")
