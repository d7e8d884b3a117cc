"""Finds the photos in a folder, and reads a photo of any supported format as an upright array.

classes = find_classes(folder)
pixels = to_array(open_photo(path, "RGB"), Fit(64))   # (3, 64, 64) uint8
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from learn.errors import printable

if TYPE_CHECKING:
    from PIL import Image

Mode = Literal["RGB", "L"]  # Pillow's names for colour and grey
Interpolation = Literal["bilinear", "bicubic"]
CHANNELS: dict[Mode, int] = {"RGB": 3, "L": 1}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # Pillow's other decoders are never used
MOST_PIXELS = 89_478_485  # largest width × height of a photo (358 MB in memory): Pillow warns of more as a bomb
BIDI = (  # characters that change the order of those around them
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


class PhotoError(ValueError):
    """A file is not a photo, or is damaged; the text says why."""


class Fit(NamedTuple):
    """How a photo becomes a square of pixels.

    Attributes:
        size: Width and height of the square.
        shorter: What the shorter side is resized to, before the middle is cut out; None: the whole photo is resized to
            the square.
        interpolation: How it is resized; with antialiasing.
    """

    size: int
    shorter: int | None = None
    interpolation: Interpolation = "bilinear"


def unwritable(name: str) -> str | None:
    """Returns why a name cannot be shown in a message or on a page, or None if it can.

    Names with control characters or invalid UTF-8 cannot.
    """
    for character in name:
        if unicodedata.category(character) == "Cs":  # surrogates, with which Python represents bytes that are not UTF-8
            return "is not UTF-8"
        if unicodedata.category(character) in ("Cc", "Zl", "Zp") or character in BIDI:
            return f"has the control character {printable(character)}"
    return None


def find_classes(folder: Path) -> tuple[str, ...]:
    """Returns the sorted names of the sub-folders, one for each class.

    Raises:
        FileNotFoundError: The folder has no sub-folders.
    """
    classes = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    if not classes:
        raise FileNotFoundError(f"{folder} has no sub-folders; it must have one a class")
    return classes


def photo_names(folder: Path) -> Iterator[str]:
    """Yields the path below the folder of each file with a photo's suffix, as ImageFolder orders them."""
    for root, _, names in sorted(os.walk(folder)):
        below = os.path.relpath(root, folder)
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield name if below == os.curdir else f"{below}/{name}"


def find_photos(folder: Path) -> list[Path]:
    """Returns the paths of all photos below the folder, in the order of `photo_names`."""
    return [folder / name for name in photo_names(folder)]


def photo_pixels(path: Path) -> int:
    """Returns width × height from the file's header, which may be wrong, without decoding; 0 if it is no photo."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # each of Pillow's decoders raises its own errors
        return 0


def open_photo(path: Path, mode: Mode = "RGB") -> Image.Image:
    """Reads a photo, turned upright by its EXIF tag, in colour or grey.

    An animation gives its first picture. Transparent areas become white. Of 16 bits the upper 8 are kept.

    Raises:
        PhotoError: The file is not a photo of these formats, is damaged, or has more than MOST_PIXELS pixels.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                size = f"{image.width:,}×{image.height:,}"
                raise PhotoError(f"it has {size} pixels by its header; at most {MOST_PIXELS:,} in all are read")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            upright: Image.Image = image
    except Exception as error:  # each of Pillow's decoders raises its own errors
        reason = "it is no picture of these formats: " + ", ".join(FORMATS)
        if type(error).__name__ != "UnidentifiedImageError":
            reason = " ".join(str(error).split()) or type(error).__name__
        raise PhotoError(reason) from error
    if upright.mode.startswith("I"):
        upright = Image.fromarray((np.asarray(upright).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if upright.has_transparency_data:
        paint = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", paint.size, "white"), paint)
    return upright if upright.mode == mode else upright.convert(mode)


def to_array(image: Image.Image, fit: Fit) -> np.ndarray:
    """Returns a picture as (channels, size, size) uint8, resized as torchvision resizes PIL images.

    Raises:
        PhotoError: The picture is so long that it would have more than MOST_PIXELS pixels before it is cropped.
    """
    from PIL import Image

    width, height = fit.size, fit.size
    if fit.shorter:
        width, height = (int(fit.shorter * side / min(image.size)) for side in image.size)
        if width * height > MOST_PIXELS:
            raise PhotoError(f"it is too long, {image.width:,}×{image.height:,} pixels, to be resized before a crop")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling[fit.interpolation.upper()])
    if fit.shorter:  # the middle, as torchvision's CenterCrop rounds it
        left, top = round((width - fit.size) / 2), round((height - fit.size) / 2)
        image = image.crop((left, top, left + fit.size, top + fit.size))
    pixels = np.array(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
