"""Collects what each model answers for the same test samples: points in the plane, pictures, or numbers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from flows.reports.comparison.records import Fits, Pictures, Points
from learn.data.transformed import Info
from learn.errors import DataError
from learn.evaluation.predictions import Predictions
from tasks.workspace.paths import evaluation_folder, training_folder

MOST_POINTS = 400
MOST_PICTURES = 24
LARGEST = 96  # pixels: larger pictures are made smaller


def answers_of(dataset: str, test: Predictions, answers: dict[str, np.ndarray]) -> Points | Fits | Pictures | None:
    """Returns the answers for test samples that a figure can show; None if it can show none.

    Pictures are those that a model gets wrong, first those on which the models do not agree.

    Args:
        dataset: Name of the dataset.
        test: What an experiment predicted on the test split.
        answers: Experiment → (N,) predictions on the same split.
    """
    targets = test.targets.ravel()
    answers = {name: each for name, each in answers.items() if len(each) == len(targets)}
    if not test.classes:
        some = _spread(len(targets))
        return Fits(targets[some], {name: each[some] for name, each in answers.items()})
    if (found := test_inputs(dataset, test)) is None:
        return None
    inputs, scale = found
    if inputs.shape[1:] == (2,):
        some = _spread(len(targets))
        return Points(inputs[some] / scale, targets[some], {name: each[some] for name, each in answers.items()})
    if inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        return None
    wrong = np.sum([each != targets for each in answers.values()], axis=0)
    order = np.lexsort((-wrong, wrong == len(answers)))
    some = order[wrong[order] > 0][:MOST_PICTURES]
    images = tuple(png(inputs[number] / scale) for number in some)
    return Pictures(tuple(some.tolist()), images, targets[some], {name: each[some] for name, each in answers.items()})


def _spread(samples: int) -> np.ndarray:
    """Returns the places of at most MOST_POINTS samples, evenly spread."""
    return np.unique(np.linspace(0, samples - 1, min(samples, MOST_POINTS)).round().astype(int))


def test_inputs(dataset: str, test: Predictions) -> tuple[np.ndarray, float] | None:
    """Returns the test inputs, memory-mapped, and what divides them; None if the files have other samples by now."""
    for folder in (training_folder(dataset), evaluation_folder(dataset)):
        try:
            targets = np.load(folder / "test-targets.npy", mmap_mode="r")
            inputs = np.load(folder / "test-inputs.npy", mmap_mode="r")
            scale = Info.read(folder).scale
        except (OSError, ValueError, DataError):
            continue
        if len(inputs) == len(targets) and np.array_equal(targets, test.targets):
            return inputs, scale if np.issubdtype(inputs.dtype, np.integer) else 1.0
    return None


def png(image: np.ndarray) -> bytes:
    """Returns a picture (C, H, W) with values in [0, 1] as PNG, made smaller if it is large."""
    from PIL import Image

    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    picture.thumbnail((LARGEST, LARGEST))
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def one_seed(predictions: np.ndarray, row: dict[str, Any], report: dict[str, Any]) -> np.ndarray:
    """Returns (N,): an experiment's predictions, of the seed whose model is kept if there are several.

    Args:
        predictions: (N,) or (N, 1), or with several seeds (S, N) or (S, N, 1).
        row: The experiment's row of the table of results.
        report: The content of its report file.
    """
    if "chosen_seed" in report:
        predictions = predictions[list(row["seeds"]).index(str(report["chosen_seed"]))]
    return predictions.ravel()
