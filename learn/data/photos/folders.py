"""A folder of photos as a map-style dataset, twice: torchvision's ImageFolder, and the same by hand (chapter 4).

Both decode a photo at every access, as the course does. Trackway's stages do not use them: the transform stage decodes
every photo once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from learn.data.photos.decode import find_classes, find_photos, open_photo

Transform = Callable[[Image.Image], Any]


class PhotoFolder(Dataset[tuple[Any, int]]):
    """Gives (photo, index of its class) for each file FOLDER/CLASS/PHOTO.

    Args:
        folder: Has one sub-folder for each class.
        transform: Applied to each upright RGB picture; None returns the picture itself.
    """

    def __init__(self, folder: Path, transform: Transform | None = None) -> None:
        self.classes = find_classes(folder)
        self.class_to_idx = {name: index for index, name in enumerate(self.classes)}
        self.samples = [(path, self.class_to_idx[c]) for c in self.classes for path in find_photos(folder / c)]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, target = self.samples[index]
        photo = open_photo(path)
        return (self.transform(photo) if self.transform else photo), target


def image_folder(folder: Path, transform: Transform | None = None) -> ImageFolder:
    """Returns torchvision's ImageFolder with Trackway's reader, which turns photos of any format upright."""
    return ImageFolder(str(folder), transform, loader=lambda path: open_photo(Path(path)))
