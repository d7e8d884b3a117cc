"""Runs in MLflow: found by their stage and the sha256 of their state_dict, so that no run id travels in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.tracking.address import address, project_folder
from tasks.tracking.store import ALREADY_EXISTS, artifacts_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
from typing import TYPE_CHECKING

from tasks.tracking.tags import STAGE, STATE_DICT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def find_run(client: MlflowClient, dataset: str, name: str, digest: str) -> Run | None:
    """The latest run of an experiment of params.yaml with this state_dict (its sha256)."""
    experiment = client.get_experiment_by_name(dataset)
    if not experiment:
        return None
    runs = client.search_runs(
        [experiment.experiment_id],
        f"tags.`{STAGE}` = 'train@{name}' AND tags.`{STATE_DICT}` = '{digest}'",
        max_results=1,
        order_by=["start_time DESC"],
    )
    return runs[0] if runs else None


def experiment_id_of(client: MlflowClient, tracking: str, name: str) -> str:
    """The MLflow experiment of a dataset, made if it is missing."""
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        restore_experiment(client, found)
        return found.experiment_id
    store = address(tracking)
    # A tracking server decides by itself where its artifacts are.
    location = None if store.page else f"{artifacts_of(store.file or project_folder() / 'mlruns/mlflow.db')}/{name}"
    try:
        return client.create_experiment(name, artifact_location=location)
    except MlflowException as error:
        found = client.get_experiment_by_name(name) if error.error_code == ALREADY_EXISTS else None
        if not found:
            raise
        return found.experiment_id


def restore_experiment(client: MlflowClient, experiment: Experiment) -> None:
    """Undoes that it was deleted on MLflow's page: until `mlflow gc` no other can have its name."""
    if experiment.lifecycle_stage == "deleted":
        print(f"MLflow's experiment {experiment.name} had been deleted; it is restored, with its runs")
        client.restore_experiment(experiment.experiment_id)
