"""Checks a table before any training: what a person should know of its columns, rows and classes.

A column that gives the target away is looked for with scikit-learn's decision trees: a small tree that sees this column
alone is fitted on the train split and measured on the split that decides.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from learn.data.source import Columns
from learn.data.transformed.problems import Problem, class_counts, class_problems

GIVEN_AWAY = 0.99  # balanced accuracy, or R², of one column alone from which it gives the target away
FEWEST = 20  # samples in the measured split, below which a score says little
MOST = 50_000  # rows of the train split that such a tree sees
LEAF = 5  # samples in a leaf of a tree for numbers: a tree that knows each sample by heart shows nothing


def table_problems(
    kinds: Columns, classes: tuple[str, ...], inputs: dict[str, np.ndarray], targets: dict[str, np.ndarray]
) -> list[Problem]:
    """Returns what a person should know before training on this table; nothing if all is well.

    Args:
        kinds: The columns.
        classes: Names of the classes; empty for regression.
        inputs: Split → (N, columns) float32 as a table's `read` returns them.
        targets: Split → (N,) int64, or (N, 1) float32.
    """
    return [
        *(class_problems(class_counts(classes, targets), "rows") if classes else ()),
        *_constant(kinds, inputs["train"]),
        *_equal_columns(kinds, np.concatenate(list(inputs.values()))),
        *_repeated_rows(classes, inputs, targets),
        *_given_away(kinds, classes, inputs, targets),
    ]


def _constant(kinds: Columns, train: np.ndarray) -> Iterator[Problem]:
    for name, values in zip(kinds, train.T, strict=True):
        if len(np.unique(values)) == 1:
            yield Problem(
                "constant", f"the column {name!r} has one value in train, so it tells nothing; take it out", []
            )


def _equal_columns(kinds: Columns, inputs: np.ndarray) -> Iterator[Problem]:
    first: dict[bytes, str] = {}
    for name, values in zip(kinds, inputs.T, strict=True):
        _, index = np.unique(values, return_inverse=True)  # also categories that have other names, one for one
        key = values if kinds[name] == "number" else _numbered(index)
        other = first.setdefault(np.ascontiguousarray(key, np.float32).tobytes(), name)
        if other != name:
            yield Problem("equal columns", f"the column {name!r} says the same as {other!r}; take one of them out", [])


def _numbered(index: np.ndarray) -> np.ndarray:
    """Returns the values numbered in the order in which they first occur."""
    _, first, places = np.unique(index, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[places]


def _repeated_rows(
    classes: tuple[str, ...], inputs: dict[str, np.ndarray], targets: dict[str, np.ndarray]
) -> Iterator[Problem]:
    """Finds rows that are in train and in another split, and rows that are equal but for their classes."""
    values, told = (np.ascontiguousarray(np.concatenate(list(each.values()))) for each in (inputs, targets))
    part = np.repeat(list(inputs), [len(each) for each in inputs.values()])
    # Bytes are compared, so that cells without a value, NaN, are equal.
    _, row = np.unique(values.view(f"V{values.itemsize * values.shape[1]}").ravel(), return_inverse=True)
    _, target = np.unique(told.ravel(), return_inverse=True)
    pairs, pair = np.unique(np.stack([row, target], axis=1), axis=0, return_inverse=True)
    for other in inputs:
        twice = int(np.isin(pair[part == other], pair[part == "train"]).sum())
        if twice and other != "train":
            text = f"{'1 row is' if twice == 1 else f'{twice:,} rows are'} in {other} and also in train"
            yield Problem("duplicate", f"{text}, so {other} tells too good a result", [])
    if classes and (different := int((np.bincount(pairs[:, 0]) > 1)[row].sum())):
        yield Problem("two classes", f"{different:,} rows are equal but for their classes", [])


def _given_away(
    kinds: Columns, classes: tuple[str, ...], inputs: dict[str, np.ndarray], targets: dict[str, np.ndarray]
) -> Iterator[Problem]:
    part = "validation" if "validation" in inputs else "test"
    if len(kinds) < 2 or len(targets[part]) < FEWEST or len(np.unique(targets[part])) < 2:
        return
    step = -(-len(targets["train"]) // MOST)
    for place, name in enumerate(kinds):
        train, held = (_filled(inputs[each][:, [place]]) for each in ("train", part))
        score = _score_alone(classes, train[::step], targets["train"][::step], held, targets[part])
        if score >= GIVEN_AWAY:
            metric = "balanced accuracy" if classes else "R²"
            yield Problem(
                "gives the target away",
                f"the column {name!r} alone predicts the target nearly perfectly ({metric} {score:.3f} on {part}); "
                "take it out unless it is known before the target is",
                [],
            )


def _filled(column: np.ndarray) -> np.ndarray:
    """Returns a column with numbers that no other cell has in place of missing ones: a missing cell can tell, too."""
    lowest = np.nanmin(column, initial=0) - 1
    return np.where(np.isnan(column), lowest, column)


def _score_alone(
    classes: tuple[str, ...], train: np.ndarray, train_targets: np.ndarray, held: np.ndarray, held_targets: np.ndarray
) -> float:
    """Returns how well one column, (N, 1), predicts the held-out targets: balanced accuracy, or R²."""
    from sklearn.metrics import r2_score, recall_score
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    if not classes:
        tree = DecisionTreeRegressor(min_samples_leaf=LEAF, random_state=0).fit(train, train_targets)
        return float(r2_score(held_targets, tree.predict(held)))
    tree = DecisionTreeClassifier(max_leaf_nodes=2 * len(classes), class_weight="balanced", random_state=0)
    found = tree.fit(train, train_targets).predict(held)
    return float(recall_score(held_targets, found, average="macro", labels=np.unique(held_targets), zero_division=0.0))
