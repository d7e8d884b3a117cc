"""Yardsticks for a table: what scikit-learn predicts without any of our training.

Dummy predicts the commonest class, or the mean. HistGradientBoosting is a boosted forest of trees, which takes missing
cells and categories as they are and often beats networks on tables.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from learn.data.source import Columns

YARDSTICKS = "yardsticks"  # the folder with NAME/PART.npy
MOST_CATEGORIES = 255  # HistGradientBoosting's limit for a column; one with more counts as numbers


def predict_yardsticks(
    kinds: Columns, classes: tuple[str, ...], inputs: dict[str, np.ndarray], targets: dict[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """Fits each yardstick on the train split and predicts the others.

    Args:
        kinds: The columns.
        classes: Names of the classes; empty for regression.
        inputs: Split → (N, columns) float32 as a table's `read` returns them.
        targets: Split → (N,) int64, or (N, 1) float32.

    Returns:
        Name → split → predictions, of the shape and dtype of the targets.
    """
    from threadpoolctl import threadpool_limits

    found = {}
    with threadpool_limits(1):  # the same bytes on any number of cores
        for name, model in _models(kinds, classes).items():
            model.fit(inputs["train"], targets["train"].ravel())
            found[name] = {
                part: model.predict(values).astype(targets[part].dtype).reshape(targets[part].shape)
                for part, values in inputs.items()
                if part != "train"
            }
    return found


def _models(kinds: Columns, classes: tuple[str, ...]) -> dict[str, Any]:
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    categories = [kind != "number" and len(kind) <= MOST_CATEGORIES for kind in kinds.values()]
    dummy, boosting = (
        (DummyClassifier(strategy="most_frequent"), HistGradientBoostingClassifier)
        if classes
        else (DummyRegressor(strategy="mean"), HistGradientBoostingRegressor)
    )
    return {"Dummy": dummy, "HistGradientBoosting": boosting(categorical_features=categories, random_state=0)}
