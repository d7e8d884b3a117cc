"""Loads the graph of a registered version with what is known of it, so that it can be written in other formats."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from learn.errors import TrackingError
from learn.portable import loading_graphs
from tasks.tracking.loading import ModelMetadata, metadata_of, registered
from tasks.tracking.names import Store
from tasks.tracking.store import connect, if_there

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from torch.export import ExportedProgram

MODEL = "model."  # begins the names of the model's parameters and of its weights


@dataclass(frozen=True)
class RegisteredGraph:
    """The graph of one version of a registered model."""

    name: str  # of the dataset, or of a model that a user registered
    version: str
    about: ModelMetadata
    program: ExportedProgram  # maps inputs (N, *shape) to a dict of tensors, as RawInputs does
    tags: dict[str, str]  # of the version
    architecture: dict[str, str]  # name and arguments of the model that was trained; {} if its run is gone
    size: int  # bytes of its file

    @property
    def example(self) -> torch.Tensor:
        """(B, *shape) with B >= 2: the samples of the test part with which the graph was traced."""
        return self.program.example_inputs[0][0]

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs, in the graph's order."""
        return list(self.program.module()(self.example))

    @property
    def title(self) -> str:
        """The version in words."""
        return f"version {self.version} of {self.name}"


def load_graph(store: Store, name: str) -> RegisteredGraph:
    """Loads the graph of the version that NAME@ALIAS or NAME/VERSION means.

    Args:
        store: The store.
        name: The model.

    Raises:
        TrackingError: There is no such model, it cannot be loaded, or it does not take raw inputs.
    """
    with connect(store.uri) as client, tempfile.TemporaryDirectory() as folder:
        version = registered(client, store, name)
        what = f"{name} is {store.title(version)}"
        try:
            about, program, size = _downloaded(version, store.title(version), folder)
        except TrackingError:
            raise
        except Exception as error:  # MLflow and torch raise many kinds for a damaged model
            reason = " ".join(str(error).split())[:300]
            raise TrackingError(f"{what}, which cannot be loaded: {reason}; next: trackway relog") from error
        architecture = _architecture(client, version)
    dataset, number, tags = store.dataset(version.name), str(version.version), dict(version.tags)
    return RegisteredGraph(dataset, number, about, program, tags, architecture, size)


def _downloaded(version: ModelVersion, title: str, folder: str) -> tuple[ModelMetadata, ExportedProgram, int]:
    """Returns what is stored with a version, its graph, and the size of the graph's file in bytes.

    Args:
        version: The version.
        title: The version in words.
        folder: An empty folder for its files.

    Raises:
        TrackingError: It does not take raw inputs.
    """
    import mlflow.artifacts
    import mlflow.pytorch
    import torch
    from mlflow.models import Model

    uri = f"models:/{version.name}/{version.version}"
    about = metadata_of(mlflow.models.get_model_info(uri))
    if about.scale is None:
        raise TrackingError(
            f"{title} does not take raw inputs: an older Trackway registered it, or another program; next: train its "
            "experiment again"
        )
    local = mlflow.artifacts.download_artifacts(uri, dst_path=folder)
    saved = Model.load(local)
    file = Path(local, saved.flavors["pytorch"]["model_data"], "model.pt2")
    with loading_graphs():
        mlflow.pytorch.load_model(local)  # refuses a file that holds a pickle, which the next line would run
        return about, torch.export.load(file), file.stat().st_size


def _architecture(client: MlflowClient, version: ModelVersion) -> dict[str, str]:
    """Returns name and arguments of a version's model, from its run."""
    run = if_there(lambda: client.get_run(version.run_id)) if version.run_id else None
    params = run.data.params if run else {}
    return {name.removeprefix(MODEL): value for name, value in params.items() if name.startswith(MODEL)}
