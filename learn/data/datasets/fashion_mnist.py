"""Pictures of clothes (chapter 3)."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from learn.data.source import Downloaded
from learn.errors import DataError


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
        """60,000 samples for training and the official test set of 10,000."""
        return 60_000, 10_000

    @property
    def shape(self) -> tuple[int, ...]:
        """One grey channel of 28×28 pixels."""
        return (1, 28, 28)

    @property
    def classes(self) -> tuple[str, ...]:
        """The ten kinds of clothes, in the order of the published labels."""
        return (
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
        )  # fmt: skip

    @property
    def scale(self) -> float:
        """The pixels are bytes, 0 to 255."""
        return 255.0

    def read(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Reads the images (70,000, 1, 28, 28) uint8 and labels (70,000,) int64, the official test set last."""
        images, labels, test_images, test_labels = (_read_idx(folder / name) for name in self.files)
        inputs = np.concatenate([images, test_images])[:, None]
        return inputs, np.concatenate([labels, test_labels]).astype(np.int64)


def _read_idx(path: Path) -> np.ndarray:
    """Reads a gzipped IDX file of bytes: two zeros, the type, the number of dimensions, each dimension, the data.

    torchvision's reader needs an unpacked file and a slow import; a test checks that both readers give the same arrays.
    """
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise DataError(f"{path} is not an IDX file of bytes; delete it and run the download stage again")
    dimensions = data[3]
    shape = np.frombuffer(data, ">u4", count=dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
