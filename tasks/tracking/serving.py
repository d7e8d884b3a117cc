"""Loads a version of a registered model for a server, and answers requests as `mlflow models serve` does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from learn.errors import TrackingError
from tasks.tracking.loading import ModelMetadata, metadata_of, registered
from tasks.tracking.names import Store
from tasks.tracking.store import connect

WrapGraph = Callable[[Any], Any]  # wraps what maps a tensor of inputs to a dict of tensors


@dataclass(frozen=True)
class ServedModel:
    """One version of a registered model."""

    name: str  # of the dataset, or of a model that a user registered
    version: str
    about: ModelMetadata
    card: str  # the version's description, in Markdown
    examples: Any  # samples of the test part as the model takes them: (N, *shape), or a DataFrame
    pyfunc: Any  # MLflow's PyFuncModel

    def predict(self, inputs: Any) -> list[dict[str, Any]]:
        """Returns a dict for each input: `class` and `probabilities`, or `value`.

        Args:
            inputs: (N, *shape), as the model takes them, or of a table a DataFrame.
        """
        return list(self.pyfunc.predict(inputs).to_dict("records"))

    def invoke(self, body: bytes, content_type: str) -> tuple[str, int, str]:
        """Answers a request to /invocations: returns text, HTTP status and content type."""
        from mlflow.exceptions import MlflowException
        from mlflow.pyfunc.scoring_server import invocations

        try:
            content = _decoded(body) if content_type.partition(";")[0].strip() == "application/json" else body
            found = invocations(content, content_type, self.pyfunc, self.pyfunc.metadata.get_input_schema())
        except MlflowException as error:
            return error.serialize_as_json(), error.get_http_status_code(), "application/json"
        return found.response, found.status, found.mimetype


class _OwnList(list[Any]):
    """A list that `copy.deepcopy` does not copy, for nobody else has it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _OwnList:
        return self


def _decoded(body: bytes) -> Any:
    """Returns a body's JSON as MLflow takes it; the body itself if it is no mapping, which MLflow refuses.

    MLflow would decode it twice, and copy each number of it: half the time that a photo's pixels take.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(content, dict):
        return body
    return {key: _OwnList(value) if isinstance(value, list) else value for key, value in content.items()}


def served_version(store: Store, name: str) -> tuple[str, str]:
    """Returns number and card of the version that NAME@ALIAS or NAME/VERSION means; raises TrackingError without."""
    with connect(store.uri) as client:
        version = registered(client, store, name)
        return str(version.version), version.description or ""


def load_served(store: Store, name: str, wrap: WrapGraph) -> ServedModel:
    """Loads the version that NAME@ALIAS or NAME/VERSION means.

    Args:
        store: The store.
        name: The model.
        wrap: What its graph is wrapped in.

    Raises:
        TrackingError: There is no such model, it cannot be loaded, or it does not take raw inputs.
    """
    with connect(store.uri) as client:
        import mlflow.pyfunc

        version = registered(client, store, name)
        dataset, number = store.dataset(version.name), str(version.version)
        what = f"{name} is {store.title(version)}"
        try:
            model = mlflow.pyfunc.load_model(f"models:/{version.name}/{number}", suppress_warnings=True)
        except Exception as error:  # MLflow and torch raise many kinds for a damaged model
            raise TrackingError(f"{what}, which cannot be loaded: {error}; next: trackway relog") from error
        about = metadata_of(model.metadata)
        if about.scale is None:
            raise TrackingError(
                f"{what}, which does not take raw inputs: an older Trackway registered it, or another program; next: "
                f"train its experiment again, or serve it with mlflow models serve -m models:/{version.name}/{number}"
            )
        python_model = model.unwrap_python_model()
        python_model.graph = wrap(python_model.graph)
        served = ServedModel(dataset, number, about, version.description or "", model.input_example, model)
        served.predict(served.examples[:1])  # the first time takes longest, and would fail here
        return served


def mlflow_version() -> str:
    """Returns the version of MLflow, which `mlflow models serve` tells at /version."""
    from mlflow.version import VERSION

    return str(VERSION)
