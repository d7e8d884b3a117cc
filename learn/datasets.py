"""Datasets: from a few arguments in params.yaml, or from downloaded files, to numpy arrays.

A dataset is one frozen dataclass: its fields are its arguments in `params.yaml` (`datasets.NAME.source`), its
properties say what the data will look like before there is any, and `read` returns it. To add one, write the class and
its entry in DATASETS at the end of this file. A class that generates its data extends `Generated`, one that downloads
files with published checksums `Downloaded`, one of photos `Photos`.
"""

from __future__ import annotations

import gzip
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from learn.errors import DataError, only_data
from learn.photos import photo_names, unwritable


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
class Line(Generated):
    """y = weight × x + bias for x in [start, stop) (chapter 1)."""

    weight: float
    bias: float
    start: float
    stop: float
    step: float

    def __post_init__(self) -> None:
        if self.step <= 0 or self.stop <= self.start:
            raise ValueError(
                f"start {self.start}, stop {self.stop}, step {self.step}: it must be start < stop and step > 0"
            )

    @property
    def sizes(self) -> tuple[int, int]:
        return int(np.ceil((self.stop - self.start) / self.step)), 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (1,)

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        x = (self.start + self.step * np.arange(self.sizes[0])).astype(np.float32)[:, None]
        return x, np.float32(self.weight) * x + np.float32(self.bias)


@dataclass(frozen=True)
class Circles(Generated):
    """Two concentric circles, one class each (chapter 2; sklearn.datasets.make_circles)."""

    samples: int
    noise: float
    seed: int

    def __post_init__(self) -> None:
        _check_samples(self.samples, minimum=2)
        if self.noise < 0:
            raise ValueError(f"noise is {self.noise}; it must be >= 0")

    @property
    def sizes(self) -> tuple[int, int]:
        return self.samples, 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (2,)

    @property
    def classes(self) -> tuple[str, ...]:
        return ("outer", "inner")

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import make_circles

        x, y = make_circles(self.samples, noise=self.noise, random_state=self.seed)
        return x.astype(np.float32), y.astype(np.int64)


@dataclass(frozen=True)
class Blobs(Generated):
    """Gaussian blobs, one class each (chapter 2; sklearn.datasets.make_blobs)."""

    samples: int
    features: int
    centers: int
    cluster_std: float
    seed: int

    def __post_init__(self) -> None:
        _check_samples(self.samples, minimum=self.centers)
        if self.features < 1 or self.centers < 2 or self.cluster_std <= 0:
            raise ValueError(
                f"features {self.features}, centers {self.centers}, cluster_std {self.cluster_std}: "
                "it must be features >= 1, centers >= 2, cluster_std > 0"
            )

    @property
    def sizes(self) -> tuple[int, int]:
        return self.samples, 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.features,)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(f"blob {i}" for i in range(self.centers))

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import make_blobs

        x, y = make_blobs(
            n_samples=self.samples,
            n_features=self.features,
            centers=self.centers,
            cluster_std=self.cluster_std,
            random_state=self.seed,
        )
        return x.astype(np.float32), y.astype(np.int64)


@dataclass(frozen=True)
class Digits(Generated):
    """1,797 handwritten digits, 8×8, 17 grey levels (UCI optdigits' test set, shipped inside scikit-learn)."""

    @property
    def sizes(self) -> tuple[int, int]:
        return 1797, 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, 8, 8)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple("0123456789")

    @property
    def scale(self) -> float:
        return 16.0

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.images.astype(np.uint8)[:, None], digits.target.astype(np.int64)


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
class FashionMNIST(Downloaded):
    """70,000 pictures of clothes, 28×28 grey, the last 10,000 for testing (chapter 3; Xiao et al. 2017, MIT)."""

    folder = "FashionMNIST"
    largest = 2**26
    hosts = (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    )
    checksums: ClassVar = {
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    }

    @property
    def sizes(self) -> tuple[int, int]:
        return 60_000, 10_000

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, 28, 28)

    @property
    def classes(self) -> tuple[str, ...]:
        return (
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
        )  # fmt: skip

    @property
    def scale(self) -> float:
        return 255.0

    def read(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        images, labels, test_images, test_labels = (_read_idx(folder / name) for name in self.files)
        inputs = np.concatenate([images, test_images])[:, None]
        return inputs, np.concatenate([labels, test_labels]).astype(np.int64)


@dataclass(frozen=True)
class Photos(Source):
    """Photo files in `data/raw/D/`: CLASS/PHOTO, or train/CLASS/PHOTO and test/CLASS/PHOTO."""

    @property
    @abstractmethod
    def tree_sha256(self) -> str:
        """What `learn.archives.tree_digest` returns for the files, all of them."""

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


@dataclass(frozen=True)
class PizzaSteakSushi(Photos):
    """300 photos of three classes of Food-101, 75 for testing (chapter 4; Bossard et al. 2014)."""

    archive: ClassVar = "pizza_steak_sushi.zip"
    hosts: ClassVar = ("https://github.com/mrdbourke/pytorch-deep-learning/raw/main/data/",)
    largest: ClassVar = 2**26

    @property
    def tree_sha256(self) -> str:
        return "ba69955c0e98a181690a62b4f1239b0b51724200685e05ea9ef19d4b4e863673"

    @property
    def sizes(self) -> tuple[int, int]:
        return 225, 75

    @property
    def classes(self) -> tuple[str, ...]:
        return ("pizza", "steak", "sushi")


@dataclass(frozen=True)
class Images(Photos):
    """A user's own photos, as `trackway add-images` found them; the section holds their version."""

    path: str  # where they came from: a folder, an archive, or a table of files and labels
    sha256: str  # of all of them
    class_names: tuple[str, ...]
    train: int  # photos
    test: int  # photos in the official test part; 0 where there is none

    def __post_init__(self) -> None:
        if len(self.class_names) < 2 or len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"class_names is {list(self.class_names)}; it must be two or more different names")
        for name in self.class_names:
            if not name or name.startswith(".") or "/" in name or "\\" in name or unwritable(name):
                raise ValueError(
                    f"class_names has {name!r}; each must be the name of a folder, without control characters"
                )
        if self.train < 1 or self.test < 0:
            raise ValueError(f"train is {self.train} and test {self.test}; it must be train >= 1 and test >= 0")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.class_names

    @property
    def tree_sha256(self) -> str:
        return self.sha256

    @property
    def sizes(self) -> tuple[int, int]:
        return self.train, self.test


def _read_idx(path: Path) -> np.ndarray:
    """A gzipped IDX file of bytes: two zeros, the type, the number of dimensions, each dimension, the data.

    torchvision's reader wants the file unpacked on disk first and costs its import; a test holds the two equal.
    """
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise DataError(f"{path} is not an IDX file of bytes; delete it and run the download stage again")
    dimensions = data[3]
    shape = np.frombuffer(data, ">u4", count=dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _check_samples(samples: int, minimum: int) -> None:
    if samples < minimum:
        raise ValueError(f"samples is {samples}; it must be >= {minimum}")


DATASETS: dict[str, type[Source]] = {
    "line": Line,
    "circles": Circles,
    "blobs": Blobs,
    "digits": Digits,
    "fashion_mnist": FashionMNIST,
    "pizza_steak_sushi": PizzaSteakSushi,
    "images": Images,
}
