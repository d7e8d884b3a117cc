"""Figures: what they show, read back from their axes."""

from __future__ import annotations

import numpy as np

from learn.plots import confusion_matrix, loss_curves, regression_fit, titled_images


def test_loss_curves_have_a_line_for_each_split() -> None:
    history = [{"train/loss": 1.0, "test/loss": 1.2, "lr": 0.1}, {"train/loss": 0.5, "test/loss": 0.9, "lr": 0.1}]
    axes = loss_curves(history).axes[0]
    lines = {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.get_lines()}
    assert [1.0, 0.5] in lines.values()
    assert [1.2, 0.9] in lines.values()


def test_a_confusion_matrix_shows_each_count_and_class() -> None:
    axes = confusion_matrix(np.array([[5, 1], [0, 7]]), ("cat", "dog")).axes[0]
    assert {text.get_text() for text in axes.texts} >= {"5", "1", "7"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog"]


def test_regression_is_shown_as_points() -> None:
    axes = regression_fit(np.array([[0.0], [1.0]]), np.array([[0.1], [0.9]])).axes[0]
    assert axes.collections
    assert np.asarray(axes.collections[0].get_offsets()).shape == (2, 2)


def test_each_image_has_its_title() -> None:
    figure = titled_images([np.zeros((4, 4, 3), np.uint8)] * 3, ["one", "two", "three"])
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["one", "two", "three"]
