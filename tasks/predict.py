"""Predicts classes and their probabilities for photos with a registered model (`trackway predict`).

What training knew of its inputs (classes, size, mode) is stored with the model in MLflow, and the same functions decode
photos as in the transform stage, so prediction cannot differ from training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from learn import portable
from learn.data.photos.decode import PhotoError, open_photo
from learn.errors import DataError, TrackingError
from learn.portable import PIXELS
from tasks.tracking.loading import ModelMetadata, load_model


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
    if not takes_photos(about) or not about.classes:
        raise DataError(f"{model} takes inputs of shape {about.shape}; it must be a classifier of images")
    import torch

    from learn.training.build import build_loss

    inputs = []
    for photo in photos:
        try:
            inputs.append(photo_as_input(photo, about))
        except PhotoError as error:
            raise DataError(f"{photo} cannot be read: {error}") from error
    with torch.inference_mode():
        logits = loaded(torch.from_numpy(np.stack(inputs)), PIXELS)
    # A model that was registered by hand does not say which loss it was trained with.
    loss = about.loss or ("BCEWithLogitsLoss" if logits.shape[1] == 1 else "CrossEntropyLoss")
    probabilities = build_loss(loss, {}, about.classes).probabilities(logits)
    return [
        Prediction(photo, sorted(zip(about.classes, row, strict=True), key=lambda pair: -pair[1]))
        for photo, row in zip(photos, probabilities.tolist(), strict=True)
    ]


def takes_photos(about: ModelMetadata) -> bool:
    """Returns whether a model takes square images, grey or in colour."""
    return portable.takes_photos(about.shape)


def photo_as_input(photo: Path, about: ModelMetadata) -> np.ndarray:
    """Reads a photo as the transform stage does, and returns it as a model takes it: (C, H, W), mostly uint8.

    Args:
        photo: The file.
        about: What is stored with the model.

    Raises:
        PhotoError: It cannot be read.
    """
    return portable.photo_as_input(photo, about.shape, about.dtype, about.scale)


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
