"""Which experiment is best: one order for the table and the champion."""

from __future__ import annotations

import math
from typing import Any

from learn.comparison.ranking import is_number, metric_of, ranked


def row(name: str, accuracy: float | None, parameters: int = 10, split: str = "validation") -> dict[str, Any]:
    values = {} if accuracy is None else {"accuracy": accuracy}
    return {"experiment": name, "parameters": parameters} | (values if split == "test" else {split: values})


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [found["experiment"] for found in rows]


def test_the_highest_accuracy_stands_first_and_the_lowest_error_does() -> None:
    assert names(ranked([row("a", 0.5), row("b", 0.9)], "validation", "accuracy")) == ["b", "a"]
    errors = [{"experiment": name, "parameters": 1, "mae": value} for name, value in (("a", 0.5), ("b", 0.9))]
    assert names(ranked(errors, "test", "mae")) == ["a", "b"]


def test_among_equals_the_smaller_model_stands_first_then_the_name() -> None:
    rows = [row("b", 0.9, 10), row("large", 0.9, 20), row("a", 0.9, 10)]
    assert names(ranked(rows, "validation", "accuracy")) == ["a", "b", "large"]


def test_what_is_not_a_number_or_not_measured_stands_last() -> None:
    rows = [row("nan", math.nan, 1), row("none", None, 2), row("worst", 0.0, 3)]
    assert names(ranked(rows, "validation", "accuracy")) == ["worst", "nan", "none"]


def test_the_test_split_s_metrics_stand_at_the_top_level_of_a_row() -> None:
    assert metric_of(row("a", 0.7, split="test"), "test", "accuracy") == 0.7
    assert metric_of(row("a", 0.7), "test", "accuracy") is None
    assert metric_of(row("a", 0.7, split="test"), "validation", "accuracy") is None
    assert [is_number(value) for value in (0.0, math.nan, None)] == [True, False, False]
