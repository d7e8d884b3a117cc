"""Measures a table's yardsticks, which the transform stage has predicted with scikit-learn, as a model is measured."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from learn.errors import only_data
from learn.evaluation.intervals import intervals
from learn.evaluation.metrics import scores
from learn.evaluation.predictions import Predictions


def measured_yardsticks(
    folder: Path, predicted: dict[str, Predictions], classes: tuple[str, ...], stratified: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Computes metrics and intervals of all yardsticks.

    Args:
        folder: Has NAME/SPLIT.npy, what each predicts; it is not there if the dataset is no table.
        predicted: Split → what a model predicts, with the targets.
        classes: Names of the classes; empty for regression.
        stratified: The splits that are stratified.

    Returns:
        Yardstick → split → metric → value, and under `intervals` split → metric → [low, high].

    Raises:
        DataError: A file is damaged.
    """
    found: dict[str, dict[str, Any]] = {}
    for each in sorted(folder.glob("*")):
        own: dict[str, Any] = {"intervals": {}}
        for part, model in predicted.items():
            with only_data(each / f"{part}.npy", f"transform@{folder.parent.parent.name}"):
                one = replace(model, predictions=np.load(each / f"{part}.npy"))
            own[part] = scores(one.targets, one.predictions, classes)
            own["intervals"][part] = intervals(one, stratified=part in stratified)
        found[each.name] = own
    return found
