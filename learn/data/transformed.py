"""The deterministic part of the input pipeline, on numpy arrays; done once, by the transform stage. And what is said
about its result."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from learn.errors import only_data

RESIZE = MODE = BROKEN = None  # defaults of params.yaml: a change of one changes the arrays
INFO = "info.json"
TRAINING, EVALUATION = "training", "evaluation"  # folders in data/transformed/D/


def folder_of(split: str, splits: Collection[str]) -> str:
    """TRAINING for what a training reads: the train split and the one that is measured after each epoch, validation if
    there is one. EVALUATION for a test split beside that, so that a change of it trains nothing again."""
    return EVALUATION if split == "test" and "validation" in splits else TRAINING


@dataclass(frozen=True)
class Info:
    """What there is to know about a folder of a transformed dataset."""

    shape: tuple[int, ...]
    classes: tuple[str, ...]
    scale: float
    samples: dict[str, int]  # part → N; only parts that are not empty

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Info:
        with only_data(folder / INFO, f"transform@{folder.parent.name}"):
            info = json.loads((folder / INFO).read_text(encoding="utf-8"))
            return cls(tuple(info["shape"]), tuple(info["classes"]), info["scale"], info["samples"])

    @property
    def held_out(self) -> str:
        """The part that is measured after each epoch: validation where there is one."""
        return "validation" if "validation" in self.samples else "test"


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """(N, C, H, W) → (N, C, size, size), bilinear with antialiasing, as torchvision resizes PIL images.

    Of the same dtype and within the same range: uint8 as such, anything else in float32; integers are rounded.
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
