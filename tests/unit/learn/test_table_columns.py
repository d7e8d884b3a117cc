"""A table's columns as features, and the checks and yardsticks of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from learn.data.datasets.wine import Wine
from learn.data.raw_columns import RawColumns
from learn.data.source import Columns
from learn.data.transformed import (
    COLUMNS,
    FittedColumns,
    feature_count,
    fit_columns,
    predict_yardsticks,
    table_problems,
)
from learn.errors import DataError

KINDS: Columns = {"age": "number", "colour": ("red", "green", "blue"), "size": "number"}


def raw(seed: int, rows: int = 50) -> np.ndarray:
    """Ages, colours and large sizes that hardly differ, of which every seventh cell is missing."""
    random = np.random.default_rng(seed)
    columns = [random.normal(40, 10, rows), random.integers(0, 3, rows), 1e6 + random.normal(0, 1, rows)]
    values = np.stack(columns, axis=1).astype(np.float32)
    values[random.random(values.shape) < 1 / 7] = np.nan
    return values


def fitted(
    parts: dict[str, np.ndarray], *, standardize: bool = True, impute: str | None = "median"
) -> tuple[dict[str, np.ndarray], FittedColumns]:
    return fit_columns("people", KINDS, parts, standardize=standardize, impute=impute)


def test_scikit_learn_s_transformers_see_the_train_part_alone() -> None:
    parts = {"train": raw(0), "test": raw(1)}
    features, learned = fitted(parts)
    assert learned.features == ("age", "size", "colour=red", "colour=green", "colour=blue")
    assert features["train"].shape == (50, feature_count(KINDS))
    numbers = {part: values[:, [0, 2]].astype(float) for part, values in parts.items()}
    imputer = SimpleImputer(strategy="median").fit(numbers["train"])
    scaler = StandardScaler().fit(imputer.transform(numbers["train"]))
    expected = scaler.transform(imputer.transform(numbers["test"]))
    np.testing.assert_array_equal(features["test"][:, :2], expected.astype(np.float32))
    other, same = fitted(parts | {"test": 100 * raw(1)})
    assert same == learned
    np.testing.assert_array_equal(other["train"], features["train"])


def test_a_category_is_one_input_for_each_and_none_if_it_is_missing() -> None:
    values = np.array([[1, 0, 1], [2, 2, 1], [3, np.nan, 1]], np.float32)
    features, _ = fitted({"train": values})
    assert features["train"][:, 2:].tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("settings", [{}, {"impute": "mean"}, {"standardize": False}])
def test_a_model_can_do_the_same_from_the_file(tmp_path: Path, settings: dict[str, Any]) -> None:
    parts = {"train": raw(0), "test": raw(1)}
    features, learned = fitted(parts, **settings)
    (tmp_path / COLUMNS).write_text(learned.to_json(), encoding="utf-8")
    assert FittedColumns.read(tmp_path) == learned
    to_features = RawColumns(FittedColumns.read(tmp_path))
    for part, values in parts.items():
        found = to_features(torch.from_numpy(values))
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), features[part], rtol=1e-6, atol=1e-6)
    exported = torch.export.export(to_features, (torch.from_numpy(parts["test"]),)).module()
    assert torch.equal(exported(torch.from_numpy(parts["test"])), found)


def test_numbers_alone_and_categories_alone_are_tables_too() -> None:
    for kinds, columns in (({"age": KINDS["age"]}, [0]), ({"colour": KINDS["colour"]}, [1])):
        values = np.nan_to_num(raw(0)[:, columns])
        features, learned = fit_columns("people", kinds, {"train": values}, standardize=False, impute=None)
        found = RawColumns(learned)(torch.from_numpy(values))
        np.testing.assert_array_equal(found.numpy(), features["train"])


def test_what_cannot_be_filled_in_is_told() -> None:
    with pytest.raises(DataError, match=r"the column 'age' of people lacks \d+ numbers; set datasets.people.transform"):
        fitted({"train": np.nan_to_num(raw(0)), "test": raw(1)}, impute=None)
    empty = raw(0)
    empty[:, 0] = np.nan
    with pytest.raises(DataError, match="the column 'age' of people has no number in the train part"):
        fitted({"train": empty, "test": raw(1)})


def test_damaged_json_is_told(tmp_path: Path) -> None:
    (tmp_path / COLUMNS).write_text("{}")
    with pytest.raises(DataError, match="it is damaged"):
        FittedColumns.read(tmp_path)


# ---- the checks

TWO = ("no", "yes")


def parts_of(inputs: np.ndarray, targets: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The last quarter of the rows is for testing."""
    index = {"train": slice(0, 3 * len(inputs) // 4), "test": slice(3 * len(inputs) // 4, None)}
    return {part: inputs[rows] for part, rows in index.items()}, {part: targets[rows] for part, rows in index.items()}


def found(kinds: Columns, inputs: np.ndarray, targets: np.ndarray, classes: tuple[str, ...] = TWO) -> dict[str, str]:
    return {p.kind: p.text for p in table_problems(kinds, classes, *parts_of(inputs.astype(np.float32), targets))}


def numbers(*columns: np.ndarray) -> tuple[Columns, np.ndarray]:
    return {name: "number" for name, _ in zip("abcd", columns, strict=False)}, np.stack(columns, axis=1)


RANDOM = np.random.default_rng(0)
NOISE, OTHER = RANDOM.normal(size=(2, 200))
TARGETS = np.arange(200) % 2


def test_a_table_in_order_has_no_problem() -> None:
    assert found(*numbers(NOISE, OTHER), TARGETS) == {}


def test_constant_and_equal_columns_are_found() -> None:
    texts = found(*numbers(NOISE, np.zeros(200), NOISE), TARGETS)
    assert texts == {
        "constant": "the column 'b' has one value in train, so it tells nothing; take it out",
        "equal columns": "the column 'c' says the same as 'a'; take one of them out",
    }


def test_categories_with_other_names_are_equal_columns() -> None:
    kinds: Columns = {"a": ("x", "y", "z"), "b": ("1", "2", "3")}
    first = RANDOM.integers(0, 3, 200)
    assert "equal columns" in found(kinds, np.stack([first, (first + 1) % 3], axis=1), TARGETS)


def test_rows_in_two_parts_and_rows_in_two_classes_are_found() -> None:
    inputs, targets = np.stack([NOISE, OTHER], axis=1), TARGETS.copy()
    inputs[199], targets[199] = inputs[0], targets[0]
    inputs[198], targets[198] = inputs[1], 1 - targets[1]
    assert found({"a": "number", "b": "number"}, inputs, targets) == {
        "duplicate": "1 row is in test and also in train, so test tells too good a result",
        "two classes": "2 rows are equal but for their classes",
    }


@pytest.mark.parametrize(
    "told",
    [TARGETS * 5.0, np.where(TARGETS, np.nan, NOISE), TARGETS + 0.1 * np.tanh(NOISE)],
    ids=["one to one", "missing or not", "by a threshold"],
)
def test_a_column_that_gives_classes_away_is_found(told: np.ndarray) -> None:
    texts = found(*numbers(NOISE, told), TARGETS)
    assert list(texts) == ["gives the target away"]
    assert texts["gives the target away"].startswith("the column 'b' alone predicts the target nearly perfectly (bal")


def test_a_column_that_gives_numbers_away_is_found() -> None:
    target = (3 * NOISE + 1).astype(np.float32)[:, None]
    texts = found(*numbers(3 * NOISE, OTHER), target, ())
    assert "the column 'a' alone predicts the target nearly perfectly (R² 0.99" in texts["gives the target away"]
    assert found(*numbers(3 * NOISE + RANDOM.normal(size=200), OTHER), target, ()) == {}


def test_a_rare_class_is_found_and_weights_are_named() -> None:
    text = found(*numbers(NOISE, OTHER), (np.arange(200) % 10 == 0).astype(np.int64))["imbalance"]
    assert text.startswith("no has 135 rows for training, yes 15; more rows, or loss: {name: CrossEntropyLoss, weight:")


# ---- yardsticks


def test_yardsticks_are_scikit_learn_s_and_know_more_than_nothing() -> None:
    wine = Wine("wine")
    inputs, targets = wine.generate()
    assert wine.column_kinds == dict.fromkeys(load_wine().feature_names, "number")
    order = np.random.default_rng(0).permutation(len(targets))
    predicted = predict_yardsticks(wine.column_kinds, wine.classes, *parts_of(inputs[order], targets[order]))
    right = {name: (of["test"] == targets[order][-len(of["test"]) :]).mean() for name, of in predicted.items()}
    assert right["Dummy"] < 0.6 < 0.9 < right["HistGradientBoosting"]


def test_yardsticks_take_missing_cells_and_categories_as_they_are() -> None:
    values = raw(0, 200)
    target = np.nan_to_num(values[:, :1]) + 10 * (values[:, 1:2] == 1)
    inputs, targets = parts_of(values, target.astype(np.float32))
    predicted = predict_yardsticks(KINDS, (), inputs, targets)
    errors = {name: np.abs(of["test"] - targets["test"]).mean() for name, of in predicted.items()}
    assert errors["HistGradientBoosting"] < 0.5 * errors["Dummy"]
    assert all(
        of["test"].shape == targets["test"].shape and of["test"].dtype == np.float32 for of in predicted.values()
    )
