"""Predicts classes and their probabilities for photos with a registered model (`trackway predict`).

What training knew of its inputs (classes, size, mode) is stored with the model in MLflow, and the same functions decode
photos as in the transform stage, so prediction cannot differ from training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from learn.data.photos.decode import CHANNELS, PhotoError, open_photo, to_array
from learn.errors import DataError, TrackingError
from tasks.tracking.loading import ModelMetadata, load_model

PIXELS = 255  # the largest value of a photo's pixels


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for one photo."""

    photo: Path
    classes: list[tuple[str, float]]  # all classes with their probabilities, the likeliest first


def predict(uri: str | None, model: str, photos: list[Path]) -> list[Prediction]:
    """Predicts the classes of photos.

    Args:
        uri: Address of the MLflow store; None raises TrackingError.
        model: NAME@ALIAS or NAME/VERSION.
        photos: The files; all are read before any is predicted.

    Raises:
        TrackingError: There is no store, or no such model, or the model cannot be loaded.
        DataError: The model is no classifier of images, or a photo cannot be read.
    """
    if not uri:
        raise TrackingError("tracking is null in params.yaml: there is no store to take a model from")
    loaded = load_model(uri, model)
    about = loaded.about
    modes = {channels: mode for mode, channels in CHANNELS.items()}
    if len(about.shape) != 3 or about.shape[0] not in modes or not about.classes:
        raise DataError(f"{model} takes inputs of shape {about.shape}; it must be a classifier of images")
    import torch

    from learn.training.build import build_loss

    pixels = []
    for photo in photos:
        try:
            pixels.append(to_array(open_photo(photo, modes[about.shape[0]]), about.shape[1]))
        except PhotoError as error:
            raise DataError(f"{photo} cannot be read: {error}") from error
    with torch.inference_mode():
        logits = loaded(torch.from_numpy(as_stored(np.stack(pixels), about)), PIXELS)
    # A model that was registered by hand does not say which loss it was trained with.
    loss = about.loss or ("BCEWithLogitsLoss" if logits.shape[1] == 1 else "CrossEntropyLoss")
    probabilities = build_loss(loss, {}, about.classes).probabilities(logits)
    return [
        Prediction(photo, sorted(zip(about.classes, row, strict=True), key=lambda pair: -pair[1]))
        for photo, row in zip(photos, probabilities.tolist(), strict=True)
    ]


def as_stored(pixels: np.ndarray, about: ModelMetadata) -> np.ndarray:
    """Returns pixels from 0 to 255 as a model takes them, such as digits from 0 to 16; those of photos stay.

    Args:
        pixels: (N, C, H, W) uint8.
        about: What is stored with the model.
    """
    if about.scale in (None, PIXELS):
        return pixels
    values = pixels * (about.scale / PIXELS)
    return (values.round() if np.issubdtype(about.dtype, np.integer) else values).astype(about.dtype)


def plot(predictions: list[Prediction], file: Path) -> None:
    """Writes a PNG of the photos, each below its predicted class and the probability.

    Raises:
        DataError: The file cannot be written.
    """
    import io

    from learn.plots import titled_images

    titles = [f"{p.classes[0][0]} {p.classes[0][1]:.1%}" for p in predictions]
    titles = [f"{title}\n{p.photo.name}" for title, p in zip(titles, predictions, strict=True)]
    buffer = io.BytesIO()
    figure = titled_images([np.asarray(open_photo(p.photo)) for p in predictions], titles)
    figure.savefig(buffer, format="png", bbox_inches="tight")
    try:
        file.write_bytes(buffer.getvalue())
    except OSError as error:
        raise DataError(f"{file} cannot be written: {error.strerror}; --plot takes the name of a PNG file") from error
