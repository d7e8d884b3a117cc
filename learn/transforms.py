"""The deterministic part of the input pipeline, on numpy arrays; done once, by the transform stage."""

from __future__ import annotations

import numpy as np


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """(N, C, H, W) uint8 → (N, C, size, size) uint8, bilinear with antialiasing, as torchvision resizes PIL images."""
    from PIL import Image

    resized = np.empty((*images.shape[:2], size, size), np.uint8)
    for sample in range(len(images)):
        for channel in range(images.shape[1]):
            image = Image.fromarray(images[sample, channel])
            resized[sample, channel] = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    return resized
