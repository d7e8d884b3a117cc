"""Gives experiments and datasets their new names in MLflow."""

from __future__ import annotations

from tasks.tracking.delivery import open_store
from tasks.tracking.names import Store
from tasks.tracking.runs import LONGEST_NAME, find_run, run_name, stage_tag
from tasks.tracking.store import all_pages, if_there
from tasks.tracking.tags import PARENT, SEED, STAGE, SWEEP


def rename_run(store: Store, dataset: str, old: str, new: str, digest: str) -> None:
    """Renames the runs of an experiment that have a given state_dict.

    Args:
        store: The store.
        dataset: Name of the dataset.
        old: Old name of the experiment.
        new: New name of the experiment.
        digest: sha256 of the state_dict.
    """
    with open_store(store.uri) as client:
        while run := find_run(client, store.name(dataset), old, digest):
            seeds = client.search_runs([run.info.experiment_id], f"tags.`{PARENT}` = '{run.info.run_id}'")
            for each in (*(seed for seed in seeds if SEED in seed.data.tags), run):  # a kill leaves the run to be found
                seed = each.data.tags.get(SEED)
                differs = each.info.run_name.removeprefix(run_name(old, seed))
                client.update_run(each.info.run_id, name=(run_name(new, seed) + differs)[:LONGEST_NAME])
                client.set_tag(each.info.run_id, STAGE, stage_tag(new, seed))


def rename_sweep_runs(store: Store, dataset: str, old: str, new: str) -> None:
    """Renames the runs of an experiment's sweeps, with their trials' runs.

    Args:
        store: The store.
        dataset: Name of the dataset.
        old: Old name of the experiment.
        new: New name of the experiment.
    """
    with open_store(store.uri) as client:
        found = client.get_experiment_by_name(store.name(dataset))
        where = {"experiment_ids": [found.experiment_id] if found else [], "filter_string": f"tags.`{SWEEP}` LIKE '%'"}
        for run in all_pages(client.search_runs, **where) if found else ():
            if run.info.run_name.startswith(f"{old} "):
                differs = run.info.run_name.removeprefix(old)
                client.update_run(run.info.run_id, name=(new + differs)[:LONGEST_NAME])


def rename_dataset(store: Store, old: str, new: str) -> None:
    """Renames the MLflow experiment and the registered model of a dataset."""
    with open_store(store.uri) as client:
        if experiment := client.get_experiment_by_name(store.name(old)):
            client.rename_experiment(experiment.experiment_id, store.name(new))
        if if_there(lambda: client.get_registered_model(store.name(old))):
            client.rename_registered_model(store.name(old), store.name(new))
