"""Photos of food (chapter 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from learn.data.source import Photos


@dataclass(frozen=True)
class PizzaSteakSushi(Photos):
    """300 photos of three classes of Food-101, 75 for testing (chapter 4; Bossard et al. 2014)."""

    archive: ClassVar = "pizza_steak_sushi.zip"
    hosts: ClassVar = ("https://github.com/mrdbourke/pytorch-deep-learning/raw/main/data/",)
    largest: ClassVar = 2**26

    @property
    def tree_sha256(self) -> str:
        """The sha256 of the photos in the published archive."""
        return "ba69955c0e98a181690a62b4f1239b0b51724200685e05ea9ef19d4b4e863673"

    @property
    def sizes(self) -> tuple[int, int]:
        """225 photos for training and 75 in the official test set."""
        return 225, 75

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the archive's folders."""
        return ("pizza", "steak", "sushi")
