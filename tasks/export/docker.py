"""Writes a registered model as a folder with a Dockerfile, from which Docker builds an image that serves the model."""

from __future__ import annotations

from pathlib import Path

from tasks.tracking.copies import copy_model
from tasks.tracking.names import Store

DOCKERFILE = Path(__file__).with_name("Dockerfile")
PYTHON = "python:3.11-slim"  # the image in that file


def write_docker(store: Store, model: str, folder: Path) -> str:
    """Writes the Dockerfile and the model's files, and returns what was compared, in words.

    Args:
        store: The store.
        model: NAME@ALIAS or NAME/VERSION.
        folder: A new folder.

    Raises:
        TrackingError: There is no such model, it cannot be loaded, or the copy predicts something else.
    """
    copied = copy_model(store, model, folder / "model")
    text = DOCKERFILE.read_text(encoding="utf-8").replace(PYTHON, f"python:{copied.python}-slim")
    (folder / DOCKERFILE.name).write_text(text, encoding="utf-8")
    return f"the copy of {copied.title} predicts the same for the {copied.samples} samples that are stored with it"
