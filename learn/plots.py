"""Figures of a run: loss curves, confusion matrix, decision boundary, prediction grid, fit; writes no files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def loss_curves(history: list[dict[str, float]], seeds: Sequence[list[dict[str, float]]] = ()) -> Figure:
    """Plots losses and, for classifiers, accuracies over the epochs.

    Args:
        history: The metrics of each epoch, as `fit` yields them, or their means.
        seeds: The histories of several seeds, whose smallest and largest values bound a band.
    """
    kinds = [kind for kind in ("loss", "accuracy") if f"train/{kind}" in history[0]]
    figure = Figure(figsize=(5 * len(kinds), 3.5), layout="constrained")
    epochs = range(1, len(history) + 1)
    for axes, kind in zip(np.ravel(figure.subplots(1, len(kinds))), kinds, strict=True):
        for key in history[0]:
            if key.endswith(f"/{kind}"):
                (line,) = axes.plot(
                    epochs,
                    [record[key] for record in history],
                    label=key,
                    marker="." if len(history) < 4 else "",
                )
                if seeds:
                    there = [[own[number][key] for own in seeds if number < len(own)] for number in range(len(history))]
                    axes.fill_between(epochs, [*map(min, there)], [*map(max, there)], color=line.get_color(), alpha=0.2)
        axes.set(xlabel="epoch", title=f"{kind}, {len(seeds)} seeds" if seeds else kind)
        axes.legend()
    return figure


def confusion_matrix(counts: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """Plots a confusion matrix; with more than 30 classes, without the numbers.

    Args:
        counts: (classes, classes); rows are true classes, columns predicted ones.
        classes: Names of the classes.
    """
    size = 2.5 + 0.45 * len(classes)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues")
    ticks = range(len(classes))
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(ticks, classes, rotation=45, ha="right")
    axes.set_yticks(ticks, classes)
    if len(classes) <= 30:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if count > counts.max() / 2 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    return figure


def decision_boundary(
    predict: Callable[[np.ndarray], np.ndarray],
    inputs: np.ndarray,
    targets: np.ndarray,
    classes: tuple[str, ...],
) -> Figure:
    """Plots the class that a model predicts at each point of the plane, and the samples.

    Args:
        predict: Maps points (M, 2) float32 to predicted classes (M,).
        inputs: (N, 2).
        targets: (N,) classes.
        classes: Names of the classes.
    """
    margin = 0.1 * np.ptp(inputs, axis=0)
    (x0, y0), (x1, y1) = inputs.min(0) - margin, inputs.max(0) + margin
    xs, ys = np.meshgrid(np.linspace(x0, x1, 200), np.linspace(y0, y1, 200))
    regions = predict(np.stack([xs.ravel(), ys.ravel()], axis=1).astype(np.float32)).reshape(xs.shape)
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    limits: dict[str, Any] = {"vmin": 0, "vmax": max(len(classes) - 1, 1), "cmap": "RdYlBu"}
    axes.imshow(regions, origin="lower", extent=(x0, x1, y0, y1), aspect="auto", alpha=0.6, **limits)
    points = axes.scatter(inputs[:, 0], inputs[:, 1], c=targets, s=12, edgecolors="black", linewidths=0.3, **limits)
    axes.legend(*_legend(points, classes), loc="upper right", fontsize=8)
    axes.set(xlabel="feature 1", ylabel="feature 2")
    return figure


def prediction_grid(
    images: np.ndarray,
    targets: np.ndarray,
    predictions: np.ndarray,
    classes: tuple[str, ...],
    columns: int = 6,
) -> Figure:
    """Plots images below their predicted classes; a wrong prediction is red and shows the true class too.

    Args:
        images: (N, C, H, W) float32 in [0, 1]; N is at most about 36.
        targets: (N,) true classes.
        predictions: (N,) predicted classes.
        classes: Names of the classes.
        columns: Number of images in a row.
    """
    rows = -(-len(images) // columns)
    _, _, height, width = images.shape
    above, between = 0.35 * height, 0.1 * width  # space for two lines of title, and between images, in image pixels
    figure = Figure(figsize=(1.6 * columns, 1.9 * rows), layout="constrained")
    axes = figure.subplots()  # one for all images: laying out one Axes takes as long as drawing twenty images
    for number, (image, target, prediction) in enumerate(zip(images, targets, predictions, strict=True)):
        row, column = divmod(number, columns)
        left, top = column * (width + between), row * (height + above)
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        axes.imshow(pixels, cmap="gray", extent=(left, left + width, top + height, top))
        right = target == prediction
        title = classes[prediction] if right else f"{classes[prediction]}\n(true: {classes[target]})"
        color = "green" if right else "red"
        axes.text(left + width / 2, top, title, ha="center", va="bottom", fontsize=8, color=color)
    axes.set(xlim=(-between, columns * (width + between)), ylim=(rows * (height + above) - above, -above))
    axes.axis("off")
    return figure


def titled_images(images: list[np.ndarray], titles: list[str], columns: int = 4) -> Figure:
    """Plots images in rows, each below its title.

    Args:
        images: Each (H, W, 3) uint8; their sizes may differ.
        titles: One for each image.
        columns: Largest number of images in a row.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(3 * columns, 3.2 * rows), layout="constrained")
    grid = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes in grid:
        axes.axis("off")
    for axes, image, title in zip(grid, images, titles, strict=False):
        axes.imshow(image)
        axes.set_title(title, fontsize=10)
    return figure


def image_rows(images: np.ndarray) -> Figure:
    """Plots rows of images, such as a photo and its augmentations; the first column is titled `original`.

    Args:
        images: (rows, columns, C, H, W) float32 in [0, 1].
    """
    rows, columns = images.shape[:2]
    figure = Figure(figsize=(1.4 * columns, 1.4 * rows), layout="constrained")
    for (row, column), axes in np.ndenumerate(figure.subplots(rows, columns, squeeze=False)):
        image = images[row, column]
        axes.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1)
        axes.axis("off")
        if row == column == 0:
            axes.set_title("original", fontsize=8)
    return figure


def regression_fit(targets: np.ndarray, predictions: np.ndarray) -> Figure:
    """Plots predicted against true values, both (N, 1); on the diagonal line they are equal."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.axline((float(targets.mean()), float(targets.mean())), slope=1, color="grey", linewidth=1)
    axes.scatter(targets, predictions, s=12)
    axes.set(xlabel="true", ylabel="predicted")
    return figure


def _legend(points: object, classes: tuple[str, ...]) -> tuple[list[Any], list[str]]:
    handles, labels = points.legend_elements(num=range(len(classes)))  # type: ignore[attr-defined]
    return handles, list(classes)[: len(labels)]
