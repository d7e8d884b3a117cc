"""The deterministic part of the input pipeline, on numpy arrays; done once, by the transform stage."""

from __future__ import annotations

import numpy as np


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """(N, C, H, W) → (N, C, size, size), bilinear with antialiasing, as torchvision resizes PIL images.

    Of the same dtype and within the same range: uint8 as such, anything else in float32; integers are rounded.
    """
    from PIL import Image

    whole = not np.issubdtype(images.dtype, np.floating)
    resized = np.empty((*images.shape[:2], size, size), images.dtype)
    for sample in range(len(images)):
        for channel in range(images.shape[1]):
            values = images[sample, channel]
            image = Image.fromarray(values if values.dtype == np.uint8 else values.astype(np.float32))
            pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
            resized[sample, channel] = np.rint(pixels) if whole else pixels
    return resized
