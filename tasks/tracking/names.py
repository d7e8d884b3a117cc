"""The names that a project's datasets have in MLflow, so that several projects can share a store.

For Trackway's users a dataset has the name that params.yaml gives it. In MLflow, its experiment and its registered
model are called `PROJECT.DATASET` if params.yaml names a `project`, otherwise as the dataset is. Only this file makes
one of these names from the other; functions that take MLflow's name say so by its type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NewType

from tasks.params import Params

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

SEPARATOR = "."  # the names in params.yaml cannot have it, so no dataset of another project has such a name

MlflowName = NewType("MlflowName", str)  # of a dataset's MLflow experiment and of its registered model


@dataclass(frozen=True)
class Store:
    """A store, as a project's datasets are found in it."""

    uri: str  # `tracking` in params.yaml
    project: str | None = None  # `project` in params.yaml

    def name(self, dataset: str) -> MlflowName:
        """Returns the name that a dataset of this project has in MLflow."""
        return MlflowName(self._prefix + dataset)

    def owns(self, name: str) -> bool:
        """Returns whether a name in MLflow is of this project; without a project every name is."""
        return name.startswith(self._prefix)

    def dataset(self, name: str) -> str:
        """Returns the dataset that has a name in MLflow, which must be of this project."""
        return name.removeprefix(self._prefix)

    def title(self, version: ModelVersion) -> str:
        """Returns a registered version in words."""
        return f"version {version.version} of {self.dataset(version.name)}"

    @property
    def _prefix(self) -> str:
        return f"{self.project}{SEPARATOR}" if self.project else ""


def store_in(params: Params) -> Store | None:
    """Returns the store that params.yaml names; None if `tracking` is null."""
    return Store(params.tracking, params.project) if params.tracking else None


def name_of(version: ModelVersion) -> MlflowName:
    """Returns the name of the registered model that a version is of."""
    return MlflowName(version.name)
