"""Finds runs in MLflow by their stage and the sha256 of their state_dict, so that no file has to store a run id."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tasks.tracking.address import address, project_folder
from tasks.tracking.names import MlflowName
from tasks.tracking.old_tags import rename_tags_in
from tasks.tracking.store import ALREADY_EXISTS, artifacts_of
from tasks.tracking.tags import KIND, NAMES, PREFIXED, STAGE, STATE_DICT, TRAININGS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run


LONGEST_NAME = 250  # characters of a run's name that MLflow's databases have room for


def run_name(experiment: str, seed: int | str | None = None) -> str:
    """Returns the name of a run on MLflow's page."""
    return experiment if seed is None else f"{experiment} seed={seed}"


def stage_tag(experiment: str, seed: int | str | None = None) -> str:
    """Returns the value of the tag STAGE: DVC's name of the train stage, and behind it one of several seeds."""
    return f"train@{experiment}" if seed is None else f"train@{experiment}#{seed}"


def find_run(client: MlflowClient, dataset: MlflowName, name: str, digest: str, seed: int | None = None) -> Run | None:
    """Returns the latest run of an experiment with a given state_dict; None if there is none.

    Args:
        client: A client of the store.
        dataset: Name of the dataset in MLflow.
        name: Name of the experiment in params.yaml.
        digest: sha256 of the state_dict, or of those of all seeds.
        seed: One of several seeds, whose run is looked for; None for the experiment's own run.
    """
    experiment = client.get_experiment_by_name(dataset)
    if not experiment:
        return None
    runs = client.search_runs(
        [experiment.experiment_id],
        f"tags.`{STAGE}` = '{stage_tag(name, seed)}' AND tags.`{STATE_DICT}` = '{digest}'",
        max_results=1,
        order_by=["start_time DESC"],
    )
    return runs[0] if runs else None


def log_datasets(
    client: MlflowClient, run_id: str, path: str, datasets: dict[str, tuple[str, str]], samples: int | None = None
) -> None:
    """Adds datasets to what a run's page lists. Idempotent.

    Args:
        client: A client of the store.
        run_id: The run.
        path: Where their files are.
        datasets: What each was used for, such as `training` → its name and digest.
        samples: Number of samples of each; None if it is not known.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    profile = None if samples is None else json.dumps({"num_rows": samples})
    inputs = [
        DatasetInput(Dataset(name, digest, "dvc", path, profile=profile), [InputTag("mlflow.data.context", context)])
        for context, (name, digest) in datasets.items()
    ]
    try:
        client.log_inputs(run_id, datasets=inputs)
    except MlflowException:  # MLflow checks, then creates: another run of the dataset may have created it meanwhile
        client.log_inputs(run_id, datasets=inputs)


def experiment_id_of(client: MlflowClient, tracking: str, dataset: MlflowName) -> str:
    """Returns the id of a dataset's MLflow experiment, and creates or restores the experiment if necessary."""
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(dataset):
        restore_experiment(client, found)
        if KIND not in found.tags:
            client.set_experiment_tag(found.experiment_id, KIND, TRAININGS)
        return found.experiment_id
    store = address(tracking)
    # A tracking server itself decides where its artifacts are.
    location = None if store.page else f"{artifacts_of(store.file or project_folder() / 'mlruns/mlflow.db')}/{dataset}"
    try:
        return client.create_experiment(dataset, artifact_location=location, tags={KIND: TRAININGS, NAMES: PREFIXED})
    except MlflowException as error:
        found = client.get_experiment_by_name(dataset) if error.error_code == ALREADY_EXISTS else None
        if not found:
            raise
        return found.experiment_id


def restore_experiment(client: MlflowClient, experiment: Experiment) -> None:
    """Restores an experiment that was deleted on MLflow's page; its name stays taken until `mlflow gc` runs."""
    if experiment.lifecycle_stage == "deleted":
        print(f"MLflow's experiment {experiment.name} had been deleted; it is restored, with its runs")
        client.restore_experiment(experiment.experiment_id)
        if NAMES not in experiment.tags:  # it was deleted before the tags of the others were renamed
            rename_tags_in(client, [experiment.experiment_id])
