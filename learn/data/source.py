"""What a dataset is: from a few arguments in params.yaml, or from downloaded files, to numpy arrays.

A dataset is one frozen dataclass: its fields are its arguments in `params.yaml` (`datasets.NAME.source`), its
properties say what the data will look like before there is any, and `read` returns it. A class that generates its data
extends `Generated`, one that downloads files with published checksums `Downloaded`, one of photos `Photos`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from learn.data.photos.decode import photo_names
from learn.errors import DataError, only_data


@dataclass(frozen=True)
class Source(ABC):
    """Where a dataset comes from, and what it is known to be before any work is done."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: str

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int]:
        """Number of samples outside and inside the official test set; the second is 0 where there is none."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: (features,) or (channels, height, width)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their indices; empty for regression."""
        return ()

    @property
    def scale(self) -> float:
        """What the stored inputs are divided by when a batch is made: 255 for ordinary images, 1 for features."""
        return 1.0

    @abstractmethod
    def read(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (N, *shape) uint8 or float32, and targets (N,) int64 classes or (N, 1) float32.

        An official test set comes last.
        """

    def targets(self, folder: Path) -> np.ndarray:
        """The targets that `read` returns."""
        return self.read(folder)[1]

    def check(self, dataset: str, inputs: np.ndarray, targets: np.ndarray) -> None:
        """Raises DataError unless the arrays are what the properties say, and all their numbers finite.

        dataset: its name in params.yaml, for the message.
        """
        samples, kind = sum(self.sizes), f"datasets.{dataset}.source: {type(self).__name__}"
        if not len(inputs) == len(targets) == samples:
            raise DataError(
                f"{kind} gives {len(inputs):,} inputs and {len(targets):,} targets; its property sizes says "
                f"{samples:,} samples, and must be the number of all"
            )
        if inputs.shape[1:] != self.shape:
            raise DataError(
                f"{kind} gives inputs of the shape {inputs.shape[1:]}; its property shape says {self.shape}"
            )
        for what, array in (("inputs", inputs), ("targets", targets)):
            if array.size and not np.isfinite([array.min(), array.max()]).all():  # they need no memory, and show NaN
                wrong = ~np.isfinite(array)
                count, (sample, *at) = int(wrong.sum()), np.argwhere(wrong)[0].tolist()
                raise DataError(
                    f"{kind}: {count:,} of the {what} are NaN or infinite, the first in sample {sample:,}{at or ''} "
                    "(counted from 0); leave such samples out, or fill in numbers"
                )
        if self.classes and (outside := (targets < 0) | (targets >= len(self.classes))).any():
            sample = int(np.argmax(outside))
            raise DataError(
                f"{kind}: the target of sample {sample:,} (counted from 0) is {targets[sample]}; its property classes "
                f"has {len(self.classes)} names, so a target is one of 0 to {len(self.classes) - 1}"
            )


@dataclass(frozen=True)
class Generated(Source):
    """Data made on the spot; the raw files are the two arrays that `generate` returns."""

    files: ClassVar = ("inputs.npy", "targets.npy")

    @abstractmethod
    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        """The arrays that `read` will return."""

    def read(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        arrays = []
        for name in self.files:
            with only_data(folder / name, f"download@{folder.name}"):
                arrays.append(np.load(folder / name))
        inputs, targets = arrays
        return inputs, targets


@dataclass(frozen=True)
class Downloaded(Source):
    """Data in files whose checksums are published; they are all that is in `data/raw/D/`."""

    folder: ClassVar[str]  # where a mirror keeps the files: MIRROR/folder/file
    hosts: ClassVar[tuple[str, ...]]  # URLs of the official folders, tried in this order
    checksums: ClassVar[dict[str, str]]  # file → "md5:..." as published
    largest: ClassVar[int] = 2**30  # bytes; a server that sends a longer file sends another one

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(self.checksums)


@dataclass(frozen=True)
class Photos(Source):
    """Photo files in `data/raw/D/`: CLASS/PHOTO, or train/CLASS/PHOTO and test/CLASS/PHOTO."""

    @property
    @abstractmethod
    def tree_sha256(self) -> str:
        """What `learn.data.photos.archives.tree_digest` returns for the files, all of them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Photos have any size until the transform stage: `datasets.NAME.transform` says what they become."""
        return (3, 0, 0)

    @property
    def scale(self) -> float:
        return 255.0

    def photos(self, folder: Path) -> list[tuple[str, int]]:
        """Each photo, as its path below the folder, and the index of its class; the official test part last.

        Raises DataError where they are not as many as `sizes` says.
        """
        parts = ["train/", "test/"] if self.sizes[1] else [""]
        found: list[tuple[str, int]] = []
        for part, size in zip(parts, self.sizes, strict=False):
            before = len(found)
            for index, name in enumerate(self.classes):
                found += [(f"{part}{name}/{photo}", index) for photo in photo_names(folder / part / name)]
            if (number := len(found) - before) != size:
                raise DataError(
                    f"{folder / part} has {number:,} photos in the classes of params.yaml, where {size:,} are said"
                )
        return found

    def targets(self, folder: Path) -> np.ndarray:
        return np.array([index for _, index in self.photos(folder)], np.int64)

    def read(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        raise DataError(f"{self.name} are photos of many sizes; the transform stage reads them one by one")


def check_samples(samples: int, minimum: int) -> None:
    """Raises ValueError for a number of samples that is too small."""
    if samples < minimum:
        raise ValueError(f"samples is {samples}; it must be >= {minimum}")
