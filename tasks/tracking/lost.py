"""Ends in MLflow what a stage has begun on a machine that is gone; its processes cannot be looked for from here."""

from __future__ import annotations

import json

from tasks.tracking.liveness import is_dead
from tasks.tracking.models import delete_model
from tasks.tracking.names import Store
from tasks.tracking.runs import stage_tag
from tasks.tracking.store import connect
from tasks.tracking.tags import FOLDER, PROCESS, STAGE


def end_what_is_lost(store: Store, dataset: str, experiment: str, folder: str, machine: str) -> None:
    """Marks an experiment's RUNNING runs as KILLED, and deletes its models that were being logged. Idempotent.

    Without this they would stay so until a later stage looks for them, DEAD_AFTER_SECONDS later at the earliest.

    Args:
        store: The store.
        dataset: Name of the dataset.
        experiment: Name of the experiment.
        folder: The project's folder on its machine, as the tag FOLDER has it; runs of other folders stay as they are.
        machine: The name of the host that is gone, or whose worker was killed.

    Raises:
        TrackingError: The store cannot be used.
    """
    from mlflow.entities import LoggedModelStatus

    def lost(tags: dict[str, str]) -> bool:
        if PROCESS not in tags:
            return False
        host = json.loads(tags[PROCESS])[0].split()[0]
        return bool(host == machine) and is_dead(tags[PROCESS], last_seen=0)

    with connect(store.uri) as client:
        found = client.get_experiment_by_name(store.name(dataset))
        for run in client.search_runs([found.experiment_id]) if found else []:
            if run.data.tags.get(STAGE, "").partition("#")[0] != stage_tag(experiment):
                continue
            if run.data.tags.get(FOLDER) == folder and run.info.status == "RUNNING" and lost(run.data.tags):
                client.set_terminated(run.info.run_id, "KILLED")
            for model in client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"):
                if model.status == LoggedModelStatus.PENDING and lost(model.tags):
                    delete_model(client, model.model_id)
