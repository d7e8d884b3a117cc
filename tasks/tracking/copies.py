"""Copies the files of a registered version out of the store, as MLflow serves them elsewhere."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learn.errors import TrackingError
from tasks.tracking.loading import registered
from tasks.tracking.names import Store
from tasks.tracking.store import connect


@dataclass(frozen=True)
class Copied:
    """A version whose files were copied."""

    title: str  # the version in words
    python: str  # version of Python with which it was made, such as 3.11
    samples: int  # number of samples for which the copy predicts what the version predicts


def copy_model(store: Store, name: str, folder: Path) -> Copied:
    """Copies the files of the version that NAME@ALIAS or NAME/VERSION means, and checks the copy.

    Args:
        store: The store.
        name: The version.
        folder: A new folder for the files.

    Raises:
        TrackingError: There is no such model, it cannot be loaded, or the copy predicts something else.
    """
    with connect(store.uri) as client:
        import mlflow.artifacts
        import mlflow.pyfunc
        from mlflow.models import Model
        from mlflow.models.model import MLMODEL_FILE_NAME

        version = registered(client, store, name)
        title, address = store.title(version), f"models:/{version.name}/{version.version}"
        try:
            mlflow.artifacts.download_artifacts(address, dst_path=str(folder))
            saved = Model.load(str(folder))
            saved.artifact_path = None  # a path of this machine
            saved.save(str(folder / MLMODEL_FILE_NAME))
            expected, found = (mlflow.pyfunc.load_model(place) for place in (address, str(folder)))
            samples = expected.input_example
            shutil.rmtree(folder / "__pycache__", ignore_errors=True)  # of its code, which was imported from there
            is_equal = samples is not None and _answer(expected, samples) == _answer(found, samples)
        except Exception as error:  # MLflow and torch raise many kinds for a damaged model
            reason = " ".join(str(error).split())[:300]
            raise TrackingError(f"{title} cannot be loaded: {reason}; next: trackway relog") from error
    if not is_equal:
        raise TrackingError(f"{title} has no input example, or its copy predicts something else; next: trackway relog")
    made_with = saved.flavors["python_function"]["python_version"]
    return Copied(title, ".".join(made_with.split(".")[:2]), len(samples))


def _answer(model: Any, samples: Any) -> str:
    """Returns what MLflow's server would answer."""
    from mlflow.pyfunc.scoring_server import predictions_to_json

    text = io.StringIO()
    predictions_to_json(model.predict(samples), text)
    return text.getvalue()
