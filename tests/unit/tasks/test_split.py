from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from learn.data.indices import split_indices
from tasks.params import SplitConfig


def indices(targets: np.ndarray, split: SplitConfig, free: int = 100, official: int = 0) -> dict[str, np.ndarray]:
    return split_indices(targets, free, official, **split.model_dump())


SETTINGS: list[dict[str, Any]] = [
    {"test": 0.2, "shuffle": True},
    {"test": 0.2, "shuffle": True, "stratify": True},
    {"test": 0.25, "validation": 0.1, "shuffle": True, "stratify": True},
    {"test": 0.3, "validation": 0.1, "shuffle": False},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_parts_are_disjoint_complete_and_as_large_as_foretold(settings: dict[str, Any]) -> None:
    split = SplitConfig(seed=42, **settings)
    targets = np.arange(100) % 4
    parts = indices(targets, split)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(100))
    assert {part: len(index) for part, index in parts.items()} == {k: n for k, n in split.sizes(100, 0).items() if n}
    if split.stratify:
        for index in parts.values():
            counts = np.bincount(targets[index], minlength=4)
            assert counts.max() - counts.min() <= 1


def test_the_same_seed_gives_the_same_parts_and_another_seed_others() -> None:
    targets = np.zeros(100, np.int64)

    def test_part(seed: int) -> list[int]:
        return indices(targets, SplitConfig(test=0.2, shuffle=True, seed=seed))["test"].tolist()

    assert test_part(42) == test_part(42) != test_part(43)


def test_it_draws_the_course_s_parts() -> None:
    x = np.arange(100)
    train, test = train_test_split(x, test_size=0.2, random_state=42)
    parts = indices(np.zeros(100, np.int64), SplitConfig(test=0.2, shuffle=True, seed=42))
    assert np.array_equal(parts["train"], train)
    assert np.array_equal(parts["test"], test)


def test_without_shuffling_the_first_samples_are_for_training() -> None:
    parts = indices(np.zeros((50, 1)), SplitConfig(test=0.2, shuffle=False, seed=0), free=50)
    assert parts["train"].tolist() == list(range(40))
    assert parts["test"].tolist() == list(range(40, 50))


def test_an_official_test_part_stays_as_it_is() -> None:
    split = SplitConfig(test="official", validation=0.1, shuffle=True, stratify=True, seed=1)
    parts = indices(np.arange(120) % 2, split, free=100, official=20)
    assert parts["test"].tolist() == list(range(100, 120))
    assert len(parts["validation"]) == 10
    assert len(parts["train"]) == 90
