"""Datasets: from a few arguments in params.yaml, or from downloaded files, to numpy arrays.

A dataset is one frozen dataclass: its fields are its arguments in `params.yaml` (`datasets.NAME.source`), its
properties say what the data will look like before there is any, and `read` returns it. To add one, write the class and
its entry in DATASETS at the end of this file. A class that generates its data extends `Generated`, one that downloads
it `Downloaded`.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from learn.errors import DataError


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from, and what it is known to be before any work is done."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: str

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files in `data/raw/D/`, no more and no fewer."""
        raise NotImplementedError

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of samples outside and inside the official test set; the second is 0 where there is none."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: (features,) or (channels, height, width)."""
        raise NotImplementedError

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their indices; empty for regression."""
        return ()

    @property
    def scale(self) -> float:
        """What the stored inputs are divided by when a batch is made: 255 for ordinary images, 1 for features."""
        return 1.0

    def read(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (N, *shape) uint8 or float32, and targets (N,) int64 classes or (N, 1) float32.

        An official test set comes last.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Generated(Source):
    """Data made on the spot; the raw files are the two arrays that `generate` returns."""

    @property
    def files(self) -> tuple[str, ...]:
        return ("inputs.npy", "targets.npy")

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        """The arrays that `read` will return."""
        raise NotImplementedError

    def read(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        inputs, targets = (np.load(folder / name) for name in self.files)
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
    """Data in files whose checksums are published."""

    folder: ClassVar[str]  # where a mirror keeps the files: MIRROR/folder/file
    hosts: ClassVar[tuple[str, ...]]  # URLs of the official folders, tried in this order
    checksums: ClassVar[dict[str, str]]  # file → "md5:..." as published

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(self.checksums)


@dataclass(frozen=True)
class FashionMNIST(Downloaded):
    """70,000 pictures of clothes, 28×28 grey, the last 10,000 for testing (chapter 3; Xiao et al. 2017, MIT)."""

    folder = "FashionMNIST"
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
}
