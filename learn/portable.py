"""Predicts with an exported model, a file of torch.export, without MLflow: a photo, numbers or a table's row in.

A Hugging Face Space has a copy of this file and of those that it imports.

python -m learn.portable model.pt2 photo.jpg   # prints what the model predicts, as JSON
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from learn.data.photos.decode import CHANNELS, Fit, PhotoError, open_photo, to_array

if TYPE_CHECKING:
    from PIL import Image

PIXELS = 255  # the largest value of a photo's pixels
MODES = {channels: mode for mode, channels in CHANNELS.items()}
Columns = dict[str, Any]  # a table's inputs: name → `number`, or a list of its categories
METADATA = "metadata.json"  # the file inside the exported file that says what the model takes


class InputError(ValueError):
    """A photo, a text with numbers or a row cannot be an input; the text says why."""


@dataclass(frozen=True)
class About:
    """What an exported model says of itself."""

    model: str  # its registered name
    version: str
    classes: tuple[str, ...]  # empty for regression
    shape: tuple[int, ...]  # of one input
    dtype: str  # of inputs
    scale: float  # what the graph divides integers by
    fit: Fit | None  # how a photo becomes an input; None: it is resized to the shape
    columns: Columns  # of a table; {} for other inputs

    @classmethod
    def parse(cls, text: str) -> About:
        """Returns what is in a file METADATA, a mapping from names to texts, some of which are JSON."""
        found = json.loads(text)
        return cls(
            found["model"],
            found["version"],
            tuple(json.loads(found["classes"])),
            tuple(json.loads(found["input_shape"])),
            found["input_dtype"],
            json.loads(found["input_scale"]),
            Fit(**fit) if (fit := json.loads(found["photo_fit"])) else None,
            json.loads(found["columns"]),
        )


def takes_photos(shape: tuple[int, ...]) -> bool:
    """Returns whether inputs of a shape are square images, grey or in colour."""
    return len(shape) == 3 and shape[0] in MODES and shape[1] == shape[2]


def photo_as_input(
    photo: Path, shape: tuple[int, ...], dtype: str, scale: float | None, fit: Fit | None = None
) -> np.ndarray:
    """Reads a photo as the transform stage does, and returns it as a model takes it: (C, H, W), mostly uint8.

    Pixels from 0 to 255 become what the model's data has, such as whole numbers from 0 to 16.

    Args:
        photo: The file.
        shape: (C, H, W) of one input, as `takes_photos` wants it.
        dtype: Data type of the inputs.
        scale: What the model divides integers by; None for a model of an older version, which takes pixels.
        fit: How a photo becomes (C, H, W); None: it is resized.

    Raises:
        PhotoError: It cannot be read.
    """
    pixels = to_array(open_photo(photo, MODES[shape[0]]), fit or Fit(shape[1]))
    if scale in (None, PIXELS):
        return pixels
    values = pixels * (scale / PIXELS)
    return (values.round() if np.issubdtype(dtype, np.integer) else values).astype(dtype)


def input_as_photo(values: np.ndarray, scale: float | None, fit: Fit | None = None) -> Image.Image:
    """Returns an input (C, H, W) as a picture, from which `photo_as_input` makes the same input.

    What it would crop is filled with the pixels at the edge.
    """
    from PIL import Image

    pixels = np.rint(values * (PIXELS / (scale or 1))).astype(np.uint8)
    if fit and fit.shorter:
        cropped = fit.shorter - fit.size
        sides = (first := round(cropped / 2), cropped - first)
        pixels = np.pad(pixels, ((0, 0), sides, sides), mode="edge")
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


@contextmanager
def loading_graphs() -> Iterator[None]:
    """Silences what torch 2.11 says of itself when it loads a file of torch.export: that it must not write to bytes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        yield


class PortableModel:
    """An exported model with what it takes.

    Args:
        file: The file, which `trackway export --format pt2` writes.
    """

    def __init__(self, file: Path) -> None:
        import torch

        texts = {METADATA: ""}
        with loading_graphs():
            self._graph = torch.export.load(file, extra_files=texts).module()
        self.about = About.parse(texts[METADATA])

    def read(self, given: Any) -> np.ndarray:
        """Returns an input (*shape), as the graph takes it.

        Args:
            given: The path of a photo; for numbers a text such as `0.5, 1.5`; for a table column → number or category,
                where None is a missing value.

        Raises:
            InputError: It cannot be read, has too few numbers or too many, or has an unknown category.
        """
        about = self.about
        if about.columns:
            return row(given, about.columns).astype(about.dtype)
        if not takes_photos(about.shape):
            return numbers(given, about.shape[0]).astype(about.dtype)
        try:
            return photo_as_input(Path(given), about.shape, about.dtype, about.scale, about.fit)
        except PhotoError as error:
            raise InputError(f"the file cannot be read as a photo: {error}") from error

    def predict(self, values: np.ndarray) -> dict[str, float] | float:
        """Returns class → probability, or for a regression the value, of one input.

        Args:
            values: (*shape), as `read` returns them.

        Raises:
            InputError: What it computes is no number, for a value is missing.
        """
        import torch

        with torch.inference_mode():
            found = self._graph(torch.from_numpy(values[None]))
        if not found["output"].isfinite().all():
            lacking = [name for name, value in zip(self.about.columns, values, strict=False) if np.isnan(value)]
            raise InputError(f"there is no value for {', '.join(lacking)}" if lacking else "a number is too large")
        if not self.about.classes:
            return float(found["prediction"].item())
        return dict(zip(self.about.classes, found["probabilities"][0].tolist(), strict=True))


def numbers(text: str, count: int) -> np.ndarray:
    """Returns the (count,) float64 numbers in a text, with spaces, commas or semicolons between them.

    Raises:
        InputError: There are more or fewer, or one is not finite in float32.
    """
    words, found = [word for word in re.split(r"[\s,;]+", text) if word], []
    for word in words:
        with suppress(ValueError):
            found.append(float(word))
    values = np.array(found, np.float64)
    values = values[np.abs(values) <= np.finfo(np.float32).max]
    if len(words) != count or len(values) != count:
        wanted = "one number" if count == 1 else f"{count} numbers"
        raise InputError(f"give {wanted}, such as 0.5; of what is there, {len(values)} can be read")
    return values


def row(given: dict[str, Any], columns: Columns) -> np.ndarray:
    """Returns (columns,) float64: numbers, indices of categories, and NaN where a value is missing.

    Raises:
        InputError: A category is unknown, or a number cannot be a float32.
    """
    values = np.full(len(columns), np.nan)
    for place, (name, kind) in enumerate(columns.items()):
        cell = given.get(name)
        if cell is None:
            continue
        if kind == "number":
            (values[place],) = numbers(str(cell), 1)
        elif cell in kind:
            values[place] = kind.index(cell)
        else:
            raise InputError(f"{cell!r} is no category of the column {name!r}; it has {', '.join(kind)}")
    return values


def main(file: str, *given: str) -> None:
    """Prints a JSON list of what the model in a file predicts for each photo, text, or row as a JSON object."""
    model = PortableModel(Path(file))
    try:
        inputs = [model.read(json.loads(each) if model.about.columns else each) for each in given]
        print(json.dumps([model.predict(each) for each in inputs]))
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
