"""Registered versions of a dataset's model: their tags, their aliases, and whose models they are."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from learn.comparison.gate import Candidate
from learn.evaluation.predictions import Predictions, read
from tasks.tracking.models import whole_model, why_broken
from tasks.tracking.names import MlflowName, Store, name_of
from tasks.tracking.runs import find_run
from tasks.tracking.store import ALREADY_EXISTS, connect, if_there
from tasks.tracking.tags import CHALLENGER, CHAMPION, DATA_TAGS, EXPERIMENT, OURS, PREDICTIONS, STATE_DICT, prefixed

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def set_tags(client: MlflowClient, version: ModelVersion, tags: dict[str, str]) -> None:
    """Sets those tags of a version that it has not, or has with other values."""
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, version.version, key, value)


def aliases_of(client: MlflowClient, dataset: MlflowName) -> dict[str, str]:
    """Returns alias → version of a dataset's registered model."""
    registered = if_there(lambda: client.get_registered_model(dataset))
    return {alias: str(version) for alias, version in registered.aliases.items()} if registered else {}


def versions_with_alias(client: MlflowClient, dataset: MlflowName) -> list[ModelVersion]:
    """Returns the champion and the challenger of a dataset, as the store has them now."""
    numbers = [number for alias, number in aliases_of(client, dataset).items() if alias in (CHAMPION, CHALLENGER)]
    found = [if_there(partial(client.get_model_version, dataset, number)) for number in sorted(set(numbers))]
    return [version for version in found if version]


def tags_of(candidate: Candidate) -> dict[str, str]:
    """Returns the tags of a candidate's version.

    The tags, not the run, have the metrics of the kept state_dict: with early stopping the run's curves go on after it.
    """
    return {
        EXPERIMENT: candidate.experiment,
        STATE_DICT: candidate.state_dict,
        **{DATA_TAGS[split]: md5 for split, md5 in candidate.data.items()},
        **prefixed({name: repr(value) for name, value in candidate.metrics.items()}),
    }


def metrics_in(tags: dict[str, str]) -> dict[str, float]:
    """Returns the metrics in a version's tags by their full names, such as `validation/accuracy`."""
    names = {tag: tag.removeprefix(OURS) for tag in tags}
    return {name: float(tags[tag]) for tag, name in names.items() if name.startswith(("test/", "validation/"))}


def describe_version(client: MlflowClient, version: ModelVersion, best: Candidate) -> None:
    """Updates a version's tags, since its experiment may have been renamed, or measured again on other data."""
    set_tags(client, version, tags_of(best))


def champion_of(client: MlflowClient, dataset: MlflowName) -> ModelVersion | None:
    """Returns the version that has the alias `champion`; None if there is none."""
    return version_with(client, dataset, CHAMPION)


@dataclass(frozen=True)
class ChampionRecord:
    """What the store says of a dataset's champion."""

    dataset: str
    version: str
    experiment: str
    state_dict: str  # sha256 of the file, or of several seeds' sha256


def champion_records(store: Store, datasets: Sequence[str]) -> list[ChampionRecord]:
    """Returns the champion of each dataset that has one, but for those that a user registered by hand.

    Args:
        store: The store.
        datasets: Names of the datasets.
    """
    with connect(store.uri) as client:
        found = {dataset: champion_of(client, store.name(dataset)) for dataset in datasets}
    return [
        ChampionRecord(dataset, str(version.version), version.tags[EXPERIMENT], version.tags[STATE_DICT])
        for dataset, version in found.items()
        if version and {EXPERIMENT, STATE_DICT} <= version.tags.keys()
    ]


def version_with(client: MlflowClient, dataset: MlflowName, alias: str) -> ModelVersion | None:
    """Returns the version of a dataset's model that has an alias; None if there is none."""
    if (version := aliases_of(client, dataset).get(alias)) is None:
        return None
    return if_there(lambda: client.get_model_version(dataset, version))


def is_model_of(
    client: MlflowClient, version: ModelVersion, experiment: str, state_dict: str, experiments: Collection[str]
) -> bool:
    """Returns whether a registered version is an experiment's model, or one with equal bytes of the same experiment.

    A version whose experiment is not one of the dataset's is taken for one of a renamed experiment.

    Args:
        client: A client of the store.
        version: The version.
        experiment: Name of the experiment.
        state_dict: sha256 of its state_dict.
        experiments: Names of all experiments of the dataset.
    """
    name, digest = version.tags.get(EXPERIMENT), version.tags.get(STATE_DICT)
    if digest is None:  # registered by hand, maybe from the experiment's run
        run = find_run(client, name_of(version), experiment, state_dict) if version.run_id else None
        return run is not None and version.run_id == run.info.run_id
    return digest == state_dict and (name == experiment or name not in experiments)


def why_version_broken(client: MlflowClient, version: ModelVersion) -> str | None:
    """Returns why a registered version cannot be loaded, as far as the store can tell; None if it can."""
    from mlflow.models import Model

    if model_id := logged_model_of(version):
        return why_broken(client, model_id)
    there = if_there(lambda: Model.load(f"models:/{version.name}/{version.version}"))
    return None if there else "its files are not in the artifact store"


def predictions_of(client: MlflowClient, version: ModelVersion, split: str) -> Predictions | None:
    """Returns what a version's run says that it predicted; None if it does not say so."""
    items = if_there(lambda: client.list_artifacts(version.run_id)) if version.run_id else None
    if PREDICTIONS not in {item.path for item in items or ()}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return read(Path(client.download_artifacts(version.run_id, PREDICTIONS, folder)), split)


def logged_model_of(version: ModelVersion) -> str | None:
    """Returns the id of the logged model that a version was made from; None if a user registered something else."""
    prefix, _, model_id = str(version.source).partition("models:/")
    return None if prefix or "/" in model_id or "@" in model_id else model_id


def version_of(
    client: MlflowClient, dataset: MlflowName, candidate: Candidate, experiments: Collection[str]
) -> ModelVersion | None:
    """Returns the registered version of a candidate's model; creates one if there is none that can be loaded.

    Returns:
        None if MLflow has no model of the candidate.
    """
    run = find_run(client, dataset, candidate.experiment, candidate.state_dict)
    if run is None or not (model_id := whole_model(client, run)):
        return None
    _create_registered_model(client, dataset)
    for version in client.search_model_versions(f"name = '{dataset}'"):
        its = is_model_of(client, version, candidate.experiment, candidate.state_dict, experiments)
        if its and not why_version_broken(client, version):
            return version
    return client.create_model_version(
        dataset,
        f"models:/{model_id}",
        run.info.run_id,
        model_id=model_id,
        tags=tags_of(candidate),
    )


def _create_registered_model(client: MlflowClient, dataset: MlflowName) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(dataset)
    except MlflowException as error:
        if error.error_code != ALREADY_EXISTS:
            raise
