"""The base classes of datasets, which turn a few arguments in params.yaml, or downloaded files, into numpy arrays.

A dataset is one frozen dataclass: its fields are its arguments in `params.yaml` (`datasets.NAME.source`), its
properties describe the data before it exists, and `read` returns it. A class that generates its data extends
`Generated`, one that downloads files with published checksums extends `Downloaded`, one of photos extends `Photos`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from learn.data.photos.decode import photo_names
from learn.errors import DataError, only_data

Columns = dict[str, Literal["number"] | tuple[str, ...]]  # a table's inputs: name → `number`, or its categories


@dataclass(frozen=True)
class Source(ABC):
    """Where a dataset comes from, and what is known of it before any work is done."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: str

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int]:
        """Number of samples outside and inside the official test set; the second is 0 if there is none."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: (features,) or (channels, height, width)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their indices; empty for regression."""
        return ()

    @property
    def column_kinds(self) -> Columns:
        """The columns of a table, one for each input; empty if this is no table. `read` gives indices of categories."""
        return {}

    @property
    def scale(self) -> float:
        """The number that divides stored inputs when a batch is made: 255 for ordinary images, 1 for features."""
        return 1.0

    @abstractmethod
    def read(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Reads the whole dataset from its raw files.

        Args:
            folder: The dataset's raw folder, `data/raw/D/`.

        Returns:
            Inputs (N, *shape) uint8 or float32, and targets (N,) int64 classes or (N, 1) float32. An official test set
            comes last.
        """

    def targets(self, folder: Path) -> np.ndarray:
        """Returns the targets that `read` returns."""
        return self.read(folder)[1]

    def check(self, dataset: str, inputs: np.ndarray, targets: np.ndarray) -> None:
        """Checks that the arrays are what the properties say, and that all their numbers are finite.

        The inputs of a table may be NaN, where a cell has no value.

        Args:
            dataset: The dataset's name in params.yaml, for the message.
            inputs: (N, *shape).
            targets: (N,) or (N, 1).

        Raises:
            DataError: The number of samples, the shape, a value or a class index is wrong.
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
        if self.column_kinds:
            inputs = np.where(np.isnan(inputs), np.float32(0), inputs)
        for what, array in (("inputs", inputs), ("targets", targets)):
            # Both are NaN if any value is; unlike np.isfinite(array) they need no memory.
            if array.size and not np.isfinite([array.min(), array.max()]).all():
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
    """A dataset that is computed; its raw files are the two arrays that `generate` returns."""

    files: ClassVar = ("inputs.npy", "targets.npy")

    @abstractmethod
    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        """Computes the inputs and targets that the download stage saves and `read` loads."""

    def read(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Loads the arrays that `generate` returned; raises DataError if a file is damaged."""
        arrays = []
        for name in self.files:
            with only_data(folder / name, f"download@{folder.name}"):
                arrays.append(np.load(folder / name))
        inputs, targets = arrays
        return inputs, targets


@dataclass(frozen=True)
class Downloaded(Source):
    """A dataset in files whose checksums are published; `data/raw/D/` has these files and no others."""

    folder: ClassVar[str]  # folder of the files on a mirror: MIRROR/folder/file
    hosts: ClassVar[tuple[str, ...]]  # URLs of the official folders, tried in this order
    checksums: ClassVar[dict[str, str]]  # file → "md5:..." as published
    largest: ClassVar[int] = 2**30  # bytes; if a server sends more, it is not the published file

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the raw files."""
        return tuple(self.checksums)


@dataclass(frozen=True)
class Photos(Source):
    """Photo files in `data/raw/D/`: CLASS/PHOTO, or train/CLASS/PHOTO and test/CLASS/PHOTO."""

    @property
    @abstractmethod
    def tree_sha256(self) -> str:
        """What `learn.data.photos.archives.tree_digest` returns for the folder of all photos."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Three channels; height and width are 0, since `datasets.NAME.transform` sets the size of photos."""
        return (3, 0, 0)

    @property
    def scale(self) -> float:
        """Pixels of photos are bytes, 0 to 255."""
        return 255.0

    def photos(self, folder: Path) -> list[tuple[str, int]]:
        """Returns each photo's path below the folder and the index of its class, the official test part last.

        Raises:
            DataError: There are not as many photos as `sizes` says.
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
        """Returns the index of each photo's class, (N,) int64, without reading the photos."""
        return np.array([index for _, index in self.photos(folder)], np.int64)

    def read(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Raises DataError: photos of different sizes do not fit into one array before the transform stage."""
        raise DataError(f"{self.name} are photos of many sizes; the transform stage reads them one by one")


def check_samples(samples: int, minimum: int) -> None:
    """Raises ValueError if the number of samples is below the minimum."""
    if samples < minimum:
        raise ValueError(f"samples is {samples}; it must be >= {minimum}")
