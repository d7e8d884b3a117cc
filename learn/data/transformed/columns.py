"""Turns a table's columns into features: fills in missing numbers, standardizes, and makes categories one-hot.

scikit-learn's transformers do it, fitted on the train split alone. What they learned is kept as JSON, so that a
registered model can do the same with raw columns (learn/data/raw_columns.py).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from learn.data.source import Columns
from learn.errors import DataError, only_data

COLUMNS = "columns.json"  # the file beside info.json that holds FittedColumns
RAW = "raw"  # the folder with PART.npy: the held-out splits as the table's `read` returns them


@dataclass(frozen=True)
class FittedColumn:
    """What is done with one column; features are those of all number columns, then those of all categories.

    Attributes:
        name: The column's name.
        categories: One feature each, 1 for the row's category; None for a column of numbers.
        fill: Takes the place of a missing number; None if none may be missing.
        mean: Is subtracted from a number.
        scale: Divides the difference.
    """

    name: str
    categories: tuple[str, ...] | None = None
    fill: float | None = None
    mean: float = 0.0
    scale: float = 1.0

    @property
    def may_lack(self) -> bool:
        """Whether a cell of this column may have no value."""
        return self.categories is not None or self.fill is not None


@dataclass(frozen=True)
class FittedColumns:
    """What was learned from the train split of a table, in the order of its columns."""

    columns: tuple[FittedColumn, ...]

    @property
    def kinds(self) -> Columns:
        """The columns as the dataset has them."""
        return {column.name: column.categories or "number" for column in self.columns}

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, such as `age` and `colour=red`."""
        numbers = [column.name for column in self.columns if column.categories is None]
        return (*numbers, *(f"{c.name}={category}" for c in self.columns for category in c.categories or ()))

    def to_json(self) -> str:
        """Returns the content of the file columns.json."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, folder: Path) -> FittedColumns:
        """Reads the folder's columns.json; raises DataError if it is damaged."""
        with only_data(folder / COLUMNS, f"transform@{folder.parent.name}"):
            found = json.loads((folder / COLUMNS).read_text(encoding="utf-8"))["columns"]
            categories = [None if each["categories"] is None else tuple(each["categories"]) for each in found]
            return cls(
                tuple(FittedColumn(**each | {"categories": c}) for each, c in zip(found, categories, strict=True))
            )


def read_raw(folder: Path, part: str) -> np.ndarray:
    """Returns a held-out split as the table's `read` returns it, (N, columns) float32, memory-mapped copy on write.

    Args:
        folder: `data/transformed/D/evaluation/`.
        part: `validation` or `test`.

    Raises:
        DataError: The file is damaged.
    """
    file = folder / RAW / f"{part}.npy"
    with only_data(file, f"transform@{folder.parent.name}"):
        return np.load(file, mmap_mode="c")


def feature_count(kinds: Columns) -> int:
    """Returns the number of features that one-hot columns have."""
    return sum(1 if kind == "number" else len(kind) for kind in kinds.values())


def fit_columns(
    dataset: str, kinds: Columns, parts: dict[str, np.ndarray], *, standardize: bool, impute: str | None
) -> tuple[dict[str, np.ndarray], FittedColumns]:
    """Fits scikit-learn's transformers on the train split, and transforms all splits.

    A category that is missing has the feature 0 for each category.

    Args:
        dataset: The dataset's name, for messages.
        kinds: The columns.
        parts: Split → (N, columns) float32 as a table's `read` returns them.
        standardize: Give each column of numbers the mean 0 and the standard deviation 1 on the train split.
        impute: What missing numbers become, `mean` or `median` of the train split; None if none may be missing.

    Returns:
        Split → features (N, features) float32, and what was learned.

    Raises:
        DataError: Numbers are missing and `impute` is None, or a column has no number in the train split.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    names = list(kinds)
    number = [place for place, name in enumerate(names) if kinds[name] == "number"]
    category = [place for place, name in enumerate(names) if kinds[name] != "number"]
    _check_missing(dataset, [names[place] for place in number], {k: v[:, number] for k, v in parts.items()}, impute)
    steps: list[tuple[str, Any]] = [("impute", SimpleImputer(strategy=impute))] if impute else []
    steps += [("standardize", StandardScaler())] if standardize else []
    encoder = OneHotEncoder(
        categories=[np.arange(len(kinds[names[place]]), dtype=float) for place in category],
        handle_unknown="ignore",
        sparse_output=False,
    )
    whole = ColumnTransformer(
        [
            ("numbers", Pipeline(steps) if steps and number else "passthrough", number),
            ("categories", encoder if category else "passthrough", category),
        ]
    )
    whole.fit(parts["train"].astype(float))
    features = {part: whole.transform(values.astype(float)).astype(np.float32) for part, values in parts.items()}
    fitted = whole.named_transformers_["numbers"].named_steps if steps and number else {}
    fills, means, scales = [None] * len(number), [0.0] * len(number), [1.0] * len(number)
    if "impute" in fitted:
        fills = fitted["impute"].statistics_.tolist()
    if "standardize" in fitted:
        means, scales = fitted["standardize"].mean_.tolist(), fitted["standardize"].scale_.tolist()
    learned = {
        names[place]: FittedColumn(names[place], None, fill, mean, scale)
        for place, fill, mean, scale in zip(number, fills, means, scales, strict=True)
    }
    return features, FittedColumns(
        tuple(learned.get(name) or FittedColumn(name, tuple(kind)) for name, kind in kinds.items())
    )


def _check_missing(dataset: str, names: list[str], parts: dict[str, np.ndarray], impute: str | None) -> None:
    """Raises DataError if numbers are missing that cannot be filled in. parts: split → (N, columns of numbers)."""
    for place, name in enumerate(names):
        missing = {part: np.isnan(values[:, place]) for part, values in parts.items()}
        if missing["train"].all():
            raise DataError(f"the column {name!r} of {dataset} has no number in the train part; take it out of columns")
        if impute is None and (count := sum(int(found.sum()) for found in missing.values())):
            raise DataError(
                f"the column {name!r} of {dataset} lacks {count:,} numbers; set datasets.{dataset}.transform.impute to "
                "median or mean, which fills them in, or take the column out of columns"
            )
