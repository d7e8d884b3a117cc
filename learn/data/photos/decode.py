"""Photos as files: which there are in a folder, and how one becomes an upright array, whatever its format.

classes = find_classes(folder)
pixels = to_array(open_photo(path, "RGB"), 64)   # (3, 64, 64) uint8
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from learn.errors import printable

if TYPE_CHECKING:
    from PIL import Image

Mode = Literal["RGB", "L"]  # Pillow's names for colour and grey
CHANNELS: dict[Mode, int] = {"RGB": 3, "L": 1}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # no other decoder of Pillow's is ever started
MOST_PIXELS = 89_478_485  # of a photo: from here on Pillow warns of a bomb; this many take 358 MB in memory
BIDI = (
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they reorder the letters around them
)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


class PhotoError(ValueError):
    """A file that is no photo, or not a whole one; the text says why."""


def unwritable(name: str) -> str | None:
    """Why a name cannot stand in a message, a list or a page, or None: control characters, broken UTF-8."""
    for character in name:
        if unicodedata.category(character) == "Cs":  # how Python holds bytes that are not UTF-8
            return "is not UTF-8"
        if unicodedata.category(character) in ("Cc", "Zl", "Zp") or character in BIDI:
            return f"has the control character {printable(character)}"
    return None


def find_classes(folder: Path) -> tuple[str, ...]:
    """The names of the sub-folders, sorted: one a class. Raises FileNotFoundError where there is none."""
    classes = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    if not classes:
        raise FileNotFoundError(f"{folder} has no sub-folders; it must have one a class")
    return classes


def photo_names(folder: Path) -> Iterator[str]:
    """Every photo by its suffix, as its path below the folder, in the order of torchvision's ImageFolder."""
    for root, _, names in sorted(os.walk(folder)):
        below = os.path.relpath(root, folder)
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield name if below == os.curdir else f"{below}/{name}"


def find_photos(folder: Path) -> list[Path]:
    """The same as whole paths."""
    return [folder / name for name in photo_names(folder)]


def photo_pixels(path: Path) -> int:
    """Width × height as the file's header tells, which may lie; 0 where it is no photo. Decodes nothing."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # every decoder of Pillow's has its own
        return 0


def open_photo(path: Path, mode: Mode = "RGB") -> Image.Image:
    """A photo, turned upright by its EXIF tag, in colour or grey. Raises PhotoError.

    The first picture of an animation; what is transparent becomes white; 16 bits are cut to their upper 8.
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
    except Exception as error:  # every decoder of Pillow's has its own
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


def to_array(image: Image.Image, size: int) -> np.ndarray:
    """A picture → (channels, size, size) uint8; bilinear with antialiasing, as torchvision resizes PIL images."""
    from PIL import Image

    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.array(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
