"""Moves the alias `champion` by hand: to an experiment's model, or back to the version that had it before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from learn.comparison.gate import Candidate
from learn.errors import TrackingError
from tasks.tracking.cards import Cards, update_cards
from tasks.tracking.delivery import open_store
from tasks.tracking.moves import BY_HAND, ROLLBACK, finish_move, forget_move, move_champion
from tasks.tracking.store import patiently, store_lock
from tasks.tracking.tags import CHALLENGER, CHAMPION, DECISION, EXPERIMENT, PREVIOUS, REFUSED, STATE_DICT
from tasks.tracking.versions import (
    aliases_of,
    champion_of,
    describe_version,
    set_tags,
    version_of,
    version_with,
    why_version_broken,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def promote_by_hand(
    uri: str,
    dataset: str,
    candidates: Sequence[Candidate],
    experiments: Collection[str],
    cards: Cards,
    experiment: str,
    because: str,
) -> str:
    """Gives an experiment's model the alias `champion`, and keeps the reason and the models that it was preferred to.

    Args:
        uri: Address of the store.
        dataset: Name of the dataset.
        candidates: All experiments of the dataset.
        experiments: Their names.
        cards: Their model cards.
        experiment: The one that becomes champion.
        because: The reason.

    Raises:
        TrackingError: MLflow does not have the experiment's model.
    """
    (chosen,) = (each for each in candidates if each.experiment == experiment)

    @patiently
    def promoted(uri: str) -> str:
        with open_store(uri) as client, store_lock(uri):
            version = version_of(client, dataset, chosen, experiments)
            if version is None:
                raise TrackingError(
                    f"MLflow has no model of {experiment}; next: trackway relog, which says why or logs it"
                )
            describe_version(client, version, chosen)
            finish_move(client, dataset)  # of a command that was killed
            text = f"{experiment} is champion (version {version.version}, {chosen.result}), chosen by hand: {because}"
            _move_by_hand(client, BY_HAND, champion_of(client, dataset), version, candidates, text)
            _take_challenger(client, dataset)
            forget_move(client, dataset)
            return text

    text = promoted(uri)
    update_cards(uri, dataset, cards, "promote")
    return text


def roll_back(
    uri: str, dataset: str, candidates: Sequence[Candidate], experiments: Collection[str], cards: Cards
) -> str:
    """Exchanges the aliases `champion` and `previous-champion`, or ends an exchange that was killed.

    Args:
        uri: Address of the store.
        dataset: Name of the dataset.
        candidates: The experiments of the dataset that were evaluated.
        experiments: Names of all experiments of the dataset.
        cards: Their model cards.

    Raises:
        TrackingError: There is no champion before the present one, or it cannot be loaded.
    """

    @patiently
    def exchanged(uri: str) -> str:
        with open_store(uri) as client, store_lock(uri):
            if finish_move(client, dataset) != ROLLBACK:
                current, version = champion_of(client, dataset), _champion_before(client, dataset, experiments)
                was = f"; version {current.version} was, and was rolled back" if current else ""
                name = version.tags.get(EXPERIMENT, "a model registered by hand")
                text = f"{name} (version {version.version}) is champion of {dataset} again{was}"
                _move_by_hand(client, ROLLBACK, current, version, candidates, text)
            _take_challenger(client, dataset)
            now = champion_of(client, dataset)
            return now.tags.get(DECISION, "") if now else ""

    text = exchanged(uri)
    _forget(uri, dataset)  # by itself, for an exchange that is repeated after it goes back
    update_cards(uri, dataset, cards, "rollback")
    return text


@patiently
def _forget(uri: str, dataset: str) -> None:
    with open_store(uri) as client, store_lock(uri):
        forget_move(client, dataset)


def _champion_before(client: MlflowClient, dataset: str, experiments: Collection[str]) -> ModelVersion:
    """Returns the version that was champion before the present one; raises TrackingError if there is none."""
    current, version = champion_of(client, dataset), version_with(client, dataset, PREVIOUS)
    if version is None or (current and current.version == version.version):
        raise TrackingError(
            f"{dataset} has no champion before the present one; next: trackway promote {dataset} EXPERIMENT "
            f"--because TEXT, with one of {', '.join(experiments)}"
        )
    if broken := why_version_broken(client, version):
        raise TrackingError(f"version {version.version} of {dataset}, champion before, is broken: {broken}")
    return version


def _move_by_hand(
    client: MlflowClient,
    by: str,
    current: ModelVersion | None,
    version: ModelVersion,
    candidates: Sequence[Candidate],
    text: str,
) -> None:
    """Gives a version the alias `champion`, and refuses all other models of today that place. Idempotent.

    Args:
        client: A client of the store, whose lock the caller holds.
        by: BY_HAND or ROLLBACK.
        current: The version that is champion; None for none.
        version: The version that becomes champion.
        candidates: The dataset's experiments.
        text: What is kept as the reason.
    """
    refused = {each.state_dict for each in candidates}
    if current:
        refused.add(current.tags.get(STATE_DICT, ""))
        if current.version == version.version:  # it was champion already, maybe by this command, which was killed
            refused |= set(current.tags.get(REFUSED, "").split())
    refused -= {"", version.tags.get(STATE_DICT, "")}
    set_tags(client, version, {DECISION: text, REFUSED: " ".join(sorted(refused))})
    move_champion(client, version.name, by, version.version, current.version if current else None)


def _take_challenger(client: MlflowClient, dataset: str) -> None:
    """Takes the alias `challenger` from the champion."""
    aliases = aliases_of(client, dataset)
    if CHALLENGER in aliases and aliases[CHALLENGER] == aliases.get(CHAMPION):
        client.delete_registered_model_alias(dataset, CHALLENGER)
