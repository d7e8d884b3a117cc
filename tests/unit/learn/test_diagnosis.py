"""What the curves say: each kind from curves that show it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from learn.evaluation.diagnosis import FOR_TABLES, REMEDIES, diagnose
from tasks.params import ExperimentConfig

CLASSES = ("pizza", "steak", "sushi")
MIXED = np.array([0, 1, 2, 1])


def history(train: list[float], held: list[float]) -> list[dict[str, float]]:
    return [{"train/loss": t, "test/loss": h} for t, h in zip(train, held, strict=True)]


@pytest.mark.parametrize(
    ("kind", "train", "held", "words"),
    [
        ("overfitting", [1.0, 0.6, 0.3, 0.1, 0.05], [1.0, 0.8, 0.7, 0.9, 1.2], "overfits from 3: from epoch 3 on"),
        ("underfitting", [1.12, 1.1, 1.099, 1.0988, 1.0987], [1.1, 1.1, 1.1, 1.1, 1.1], "guessing gives 1.0986"),
        ("diverged", [1.0, 2.0, 50.0], [1.0, 3.0, 60.0], "rose from 1.0000 to 50.0000"),
        ("improving", [1.0, 0.9, 0.8, 0.7], [1.0, 0.9, 0.8, 0.7], "was still falling when training ended"),
        ("settled", [1.0, 0.5, 0.3, 0.3, 0.3], [1.0, 0.5, 0.4, 0.4, 0.4], "settled at 0.4000, its lowest in epoch 3"),
    ],
)
def test_each_kind_is_told_with_its_remedies(kind: str, train: list[float], held: list[float], words: str) -> None:
    found = diagnose(history(train, held), "test", CLASSES, MIXED)
    assert found.kind == kind
    assert words in found.text
    assert (f"What can help: {REMEDIES[kind]}" in found.text) == bool(REMEDIES[kind])


@pytest.mark.parametrize("kind", FOR_TABLES)
def test_a_table_has_remedies_of_its_own(kind: str) -> None:
    train, held = {"constant": ([1.0, 0.5],) * 2, "overfitting": ([1.0, 0.1], [1.0, 2.0])}.get(kind, ([1.1, 1.1],) * 2)
    predictions = np.array([1, 1, 1]) if kind == "constant" else MIXED
    found = diagnose(history(train, held), "test", CLASSES, predictions, is_table=True)
    assert found.kind == kind
    assert found.text.endswith(FOR_TABLES[kind])
    assert not any(word in FOR_TABLES[kind] for word in ("augmentation", "photo"))


def test_one_class_for_everything_is_said_before_all_else() -> None:
    found = diagnose(history([1.0, 0.5], [1.0, 0.5]), "test", CLASSES, np.array([1, 1, 1]))
    assert (found.kind, found.summary) == ("constant", "always steak")


def test_a_held_out_loss_that_is_not_finite_has_diverged() -> None:
    assert diagnose(history([1.0, 0.5], [1.0, math.inf]), "test", CLASSES, MIXED).kind == "diverged"


def test_regression_has_no_constant_predictor() -> None:
    assert diagnose(history([1.0, 0.3, 0.3], [1.0, 0.3, 0.3]), "test", (), np.zeros((3, 1))).kind == "settled"


def test_the_remedies_are_settings_that_exist() -> None:
    words = " ".join(REMEDIES.values())
    for key in ("augmentation", "clip_grad_norm", "early_stopping", "scheduler", "epochs", "optimizer"):
        assert key in ExperimentConfig.model_fields
        assert key in words
