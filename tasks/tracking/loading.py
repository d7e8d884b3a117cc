"""Loads registered models, and says why one cannot be loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from learn.data.photos.decode import Fit
from learn.data.source import Columns
from learn.errors import TrackingError, did_you_mean
from tasks.tracking.delivery import open_store
from tasks.tracking.models import whole_model
from tasks.tracking.names import Store, store_in
from tasks.tracking.runs import find_run
from tasks.tracking.store import all_pages, if_there, patiently
from tasks.tracking.versions import champion_of, logged_model_of, why_version_broken

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from tasks.params import Params


@dataclass(frozen=True)
class ModelMetadata:
    """What is stored with a model."""

    loss: str  # name of the loss that it was trained with; "" for a model that was registered by hand
    classes: tuple[str, ...]
    shape: tuple[int, ...]  # of one input
    loss_arguments: dict[str, Any] | None = None  # None: not stored, by an older version of Trackway
    dtype: str = "float32"  # of the inputs that it takes
    scale: float | None = None  # what it divides integers by; None: it takes divided inputs, by an older version
    fit: Fit | None = None  # how a photo becomes its input; None: not stored, or it takes no photos
    columns: Columns = field(default_factory=dict)  # of a table, in the order of its inputs


@dataclass(frozen=True)
class LoadedModel:
    """A registered model as a function of stored inputs."""

    graph: Any
    about: ModelMetadata

    def __call__(self, inputs: torch.Tensor, scale: float) -> torch.Tensor:
        """Computes logits (B, output_size), or what else the loss takes.

        Args:
            inputs: (B, *shape), as the transform stage stores them; of a table, rows as its `read` returns them.
            scale: What integers must be divided by, for a model of an older version that does not do it itself.
        """
        if self.about.scale is not None:
            return self.graph(inputs)["output"]
        return self.graph(inputs if inputs.is_floating_point() else inputs.div(scale))


def store_of(params: Params) -> Store:
    """Returns the store that models are taken from.

    Raises:
        TrackingError: `tracking` is null.
    """
    if not (store := store_in(params)):
        raise TrackingError("tracking is null in params.yaml: there is no store to take a model from")
    return store


def load_model(store: Store, name: str) -> LoadedModel:
    """Loads a registered model as a function of stored inputs.

    Args:
        store: The store.
        name: NAME@ALIAS or NAME/VERSION.

    Raises:
        TrackingError: There is no such model (the text lists those that exist), or it cannot be loaded.
    """
    with open_store(store.uri) as client:
        version = registered(client, store, name)
        broken = why_version_broken(client, version)
        if not broken:
            model, broken = loaded(version)
        if broken or not model:
            raise TrackingError(
                f"{name} is {store.title(version)}, which cannot be loaded: {broken}; next: trackway relog, which logs "
                "the champion again"
            )
    return model


def registered(client: MlflowClient, store: Store, name: str) -> ModelVersion:
    """Returns the version that NAME@ALIAS or NAME/VERSION means; raises TrackingError if the project has none.

    Args:
        client: A client of the store.
        store: The store.
        name: The version, by the dataset's own name.
    """
    found = all_pages(client.search_registered_models, max_results=1000)
    models = {store.dataset(model.name): model for model in found if store.owns(model.name)}
    model, _, alias = name.rpartition("@")
    number = str(models[model].aliases.get(alias, "")) if model in models else ""
    if not number:
        model, _, number = name.rpartition("/")
    asked = model in models and number.isdecimal()
    if asked and (version := if_there(lambda: client.get_model_version(store.name(model), number))):
        return version
    known = [f"{dataset}@{alias}" for dataset, model in models.items() for alias in model.aliases]
    there = f"there is {', '.join(known)}{did_you_mean(name, known)}" if known else "there is none yet"
    raise TrackingError(
        f"{name} is no registered model; {there}; `dvc repro` registers the best of each dataset, and `trackway relog` "
        "rebuilds what MLflow's store lacks"
    )


def loaded(version: ModelVersion) -> tuple[LoadedModel | None, str]:
    """Returns a version's model and "", or None and the reason why it cannot be loaded."""
    import mlflow.pytorch
    from mlflow.exceptions import MlflowException

    uri = f"models:/{version.name}/{version.version}"
    try:
        model, info = mlflow.pytorch.load_model(uri), mlflow.models.get_model_info(uri)
    except MlflowException:
        raise  # the store failed, not the model
    except Exception as error:  # torch raises many kinds of errors for a damaged file
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return LoadedModel(model, metadata_of(info)), ""


def metadata_of(info: Any) -> ModelMetadata:
    """Returns what is stored with a model.

    Args:
        info: MLflow's Model or ModelInfo.
    """
    about = info.metadata or {}
    first = info.signature.inputs.inputs[0] if info.signature else None  # a user's model may take columns
    columns = about.get("columns", ())
    return ModelMetadata(
        about.get("loss", ""),
        tuple(about.get("classes", ())),
        tuple(about.get("shape", getattr(first, "shape", ())[1:])),
        about.get("loss_arguments"),
        about.get("dtype", "float32"),
        about.get("scale"),
        Fit(*about["fit"]) if "fit" in about else None,
        {each["name"]: "number" if (kinds := each["categories"]) is None else tuple(kinds) for each in columns},
    )


@patiently
def why_champion_broken(store: Store, dataset: str, *, load: bool = False) -> str | None:
    """Returns why the champion cannot be loaded, as far as the store can tell; None if it can, or if there is none.

    Args:
        store: The store.
        dataset: Name of the dataset.
        load: Also try to load it; if that fails, mark its model as FAILED, so that it is logged again.
    """
    with open_store(store.uri) as client:
        version = champion_of(client, store.name(dataset))
        if version is None:
            return None
        if not (why := why_version_broken(client, version)) and load:
            why = loaded(version)[1]
            if why and (model_id := logged_model_of(version)):
                client.finalize_logged_model(model_id, "FAILED")
        return why


def lacks_champion(store: Store, dataset: str, experiment: str, digest: str) -> bool:
    """Returns whether no champion can be loaded although MLflow has the model of an experiment.

    Args:
        store: The store.
        dataset: Name of the dataset.
        experiment: Name of the experiment.
        digest: sha256 of its state_dict.
    """
    with open_store(store.uri) as client:
        version = champion_of(client, store.name(dataset))
        if version and not why_version_broken(client, version):
            return False
        run = find_run(client, store.name(dataset), experiment, digest)
        return run is not None and whole_model(client, run) is not None
