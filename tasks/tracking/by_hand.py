"""Moves the alias `champion` by hand: to an experiment's model, or back to the version that had it before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from learn.comparison.gate import Candidate
from learn.errors import TrackingError
from tasks.tracking.cards import Cards, update_cards
from tasks.tracking.delivery import open_store
from tasks.tracking.moves import BY_HAND, ROLLBACK, finish_move, forget_move, move_champion
from tasks.tracking.names import MlflowName, Store, name_of
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
    store: Store,
    dataset: str,
    candidates: Sequence[Candidate],
    experiments: Collection[str],
    cards: Cards,
    experiment: str,
    because: str,
) -> str:
    """Gives an experiment's model the alias `champion`, and keeps the reason and the models that it was preferred to.

    Args:
        store: The store.
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
    def promoted(store: Store) -> str:
        with open_store(store.uri) as client, store_lock(store.uri):
            model = store.name(dataset)
            version = version_of(client, model, chosen, experiments)
            if version is None:
                raise TrackingError(
                    f"MLflow has no model of {experiment}; next: trackway relog, which says why or logs it"
                )
            describe_version(client, version, chosen)
            finish_move(client, model)  # of a command that was killed
            text = f"{experiment} is champion (version {version.version}, {chosen.result}), chosen by hand: {because}"
            _move_by_hand(client, BY_HAND, champion_of(client, model), version, candidates, text)
            _take_challenger(client, model)
            forget_move(client, model)
            return text

    text = promoted(store)
    update_cards(store, dataset, cards, "promote")
    return text


def roll_back(
    store: Store, dataset: str, candidates: Sequence[Candidate], experiments: Collection[str], cards: Cards
) -> str:
    """Exchanges the aliases `champion` and `previous-champion`, or ends an exchange that was killed.

    Args:
        store: The store.
        dataset: Name of the dataset.
        candidates: The experiments of the dataset that were evaluated.
        experiments: Names of all experiments of the dataset.
        cards: Their model cards.

    Raises:
        TrackingError: There is no champion before the present one, or it cannot be loaded.
    """

    @patiently
    def exchanged(store: Store) -> str:
        with open_store(store.uri) as client, store_lock(store.uri):
            model = store.name(dataset)
            if finish_move(client, model) != ROLLBACK:
                current, version = champion_of(client, model), _champion_before(client, store, dataset, experiments)
                was = f"; version {current.version} was, and was rolled back" if current else ""
                name = version.tags.get(EXPERIMENT, "a model registered by hand")
                text = f"{name} (version {version.version}) is champion of {dataset} again{was}"
                _move_by_hand(client, ROLLBACK, current, version, candidates, text)
            _take_challenger(client, model)
            now = champion_of(client, model)
            return now.tags.get(DECISION, "") if now else ""

    text = exchanged(store)
    _forget(store, dataset)  # by itself, for an exchange that is repeated after it goes back
    update_cards(store, dataset, cards, "rollback")
    return text


@patiently
def _forget(store: Store, dataset: str) -> None:
    with open_store(store.uri) as client, store_lock(store.uri):
        forget_move(client, store.name(dataset))


def _champion_before(client: MlflowClient, store: Store, dataset: str, experiments: Collection[str]) -> ModelVersion:
    """Returns the version that was champion before the present one; raises TrackingError if there is none."""
    model = store.name(dataset)
    current, version = champion_of(client, model), version_with(client, model, PREVIOUS)
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
    move_champion(client, name_of(version), by, version.version, current.version if current else None)


def _take_challenger(client: MlflowClient, dataset: MlflowName) -> None:
    """Takes the alias `challenger` from the champion."""
    aliases = aliases_of(client, dataset)
    if CHALLENGER in aliases and aliases[CHALLENGER] == aliases.get(CHAMPION):
        client.delete_registered_model_alias(dataset, CHALLENGER)
