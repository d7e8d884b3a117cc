"""What a model predicted for each sample of the held-out splits, as a file: metrics and paired tests are made of it."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Predictions for the samples of one split.

    Attributes:
        targets: (N,) int64 class indices, or (N, 1) float32 for regression.
        predictions: The same shape and dtype; with several seeds (S, N) or (S, N, 1).
        data: md5 of the samples.
        classes: Number of classes; 0 for regression.
        confidence: (N,) float32, the probability that the model gives to the class that it predicts, rounded to four
            digits; with several seeds (S, N). None for regression, or if it is not known.
    """

    targets: np.ndarray
    predictions: np.ndarray
    data: str
    classes: int
    confidence: np.ndarray | None = None

    @property
    def by_seed(self) -> np.ndarray:
        """(S, N) or (S, N, 1): the predictions of each seed, also if there is one."""
        return seeds_of(self.predictions, self.targets)


def seeds_of(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns predictions of one or several seeds with the seed as the first dimension: (S, N) or (S, N, 1)."""
    return predictions if predictions.ndim > targets.ndim else predictions[None]


def as_file(splits: dict[str, Predictions]) -> bytes:
    """Returns the content of an npz file: split → predictions."""
    arrays: dict[str, Any] = {
        f"{split}/{key}": np.asarray(value)
        for split, found in splits.items()
        for key, value in vars(found).items()
        if value is not None
    }
    content = io.BytesIO()
    np.savez(content, **arrays)  # not compressed: another zlib would give other bytes
    return content.getvalue()


def read(file: Path, split: str) -> Predictions | None:
    """Returns the predictions for a split; None if the file is not there, is damaged, or lacks the split."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            targets, predictions, data, classes = (
                arrays[f"{split}/{key}"] for key in ("targets", "predictions", "data", "classes")
            )
            confidence = arrays.get(f"{split}/confidence")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Predictions(targets, predictions, str(data), int(classes), confidence)
