"""The deterministic part of the input pipeline, which the transform stage runs once, and the description of its result.

Works on numpy arrays.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from learn.data.photos.decode import Interpolation
from learn.errors import only_data

RESIZE = CROP = MODE = BROKEN = None  # these defaults of params.yaml are here because they change the arrays
INTERPOLATION: Interpolation = "bilinear"
STANDARDIZE = ONE_HOT = False
IMPUTE = None
INFO = "info.json"  # the file that holds an Info
TRAINING, EVALUATION = "training", "evaluation"  # folders in data/transformed/D/


def folder_of(split: str, splits: Collection[str]) -> str:
    """Returns the folder of a split, TRAINING or EVALUATION.

    TRAINING has what a training reads: the train split and the split that is measured after each epoch (validation if
    there is one, else test). A test split beside a validation split is in EVALUATION, so that a change of it does not
    train anything again.

    Args:
        split: `train`, `validation` or `test`.
        splits: The names of all the dataset's splits.
    """
    return EVALUATION if split == "test" and "validation" in splits else TRAINING


@dataclass(frozen=True)
class Info:
    """Describes the arrays in a folder of a transformed dataset."""

    shape: tuple[int, ...]
    classes: tuple[str, ...]
    scale: float
    samples: dict[str, int]  # split → number of samples, without empty splits

    def to_json(self) -> str:
        """Returns the content of the file info.json."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Info:
        """Reads the folder's info.json; raises DataError if it is damaged."""
        with only_data(folder / INFO, f"transform@{folder.parent.name}"):
            info = json.loads((folder / INFO).read_text(encoding="utf-8"))
            return cls(tuple(info["shape"]), tuple(info["classes"]), info["scale"], info["samples"])

    @property
    def held_out(self) -> str:
        """The split that is measured after each epoch: validation if there is one, else test."""
        return "validation" if "validation" in self.samples else "test"


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resizes (N, C, H, W) to (N, C, size, size), bilinear with antialiasing, as torchvision resizes PIL images.

    The dtype and the range of values stay. uint8 is resized as it is, every other dtype in float32; integers are
    rounded.
    """
    from PIL import Image

    whole = not np.issubdtype(images.dtype, np.floating)
    resized = np.empty((*images.shape[:2], size, size), images.dtype)
    for sample in range(len(images)):
        for channel in range(images.shape[1]):
            values = images[sample, channel]
            image = Image.fromarray(values if values.dtype == np.uint8 else values.astype(np.float32))
            pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
            resized[sample, channel] = np.rint(pixels) if whole else pixels
    return resized
