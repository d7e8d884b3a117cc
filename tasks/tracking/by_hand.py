"""Moves the alias `champion` by hand: to an experiment's model, or back to the version that had it before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from learn.comparison.gate import Candidate
from learn.errors import TrackingError
from tasks.tracking.cards import Cards, write_cards
from tasks.tracking.delivery import open_store
from tasks.tracking.store import if_there, patiently, store_lock
from tasks.tracking.tags import CHALLENGER, CHAMPION, DECISION, EXPERIMENT, PREVIOUS, REFUSED, STATE_DICT
from tasks.tracking.versions import (
    aliases_of,
    champion_of,
    describe_version,
    set_tags,
    version_of,
    versions_with_alias,
    why_version_broken,
)

if TYPE_CHECKING:
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
    def prepared(uri: str) -> tuple[str | None, str]:
        with open_store(uri) as client, store_lock(uri):
            version = version_of(client, dataset, chosen, experiments)
            if version is None:
                raise TrackingError(
                    f"MLflow has no model of {experiment}; next: trackway relog, which says why or logs it"
                )
            describe_version(client, version, chosen)
            current = champion_of(client, dataset)
            return current.version if current else None, version.version

    current, version = prepared(uri)
    text = f"{experiment} is champion (version {version}, {chosen.result}), chosen by hand: {because}"
    _move_by_hand(uri, dataset, current, version, candidates, cards, text)
    return text


def roll_back(
    uri: str, dataset: str, candidates: Sequence[Candidate], experiments: Collection[str], cards: Cards
) -> str:
    """Exchanges the aliases `champion` and `previous-champion`.

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
    def prepared(uri: str) -> tuple[str | None, ModelVersion]:
        with open_store(uri) as client:
            current, number = champion_of(client, dataset), aliases_of(client, dataset).get(PREVIOUS)
            version = if_there(lambda: client.get_model_version(dataset, str(number))) if number else None
            if version is None or (current and current.version == version.version):
                raise TrackingError(
                    f"{dataset} has no champion before the present one; next: trackway promote {dataset} EXPERIMENT "
                    f"--because TEXT, with one of {', '.join(experiments)}"
                )
            if broken := why_version_broken(client, version):
                raise TrackingError(f"version {version.version} of {dataset}, champion before, is broken: {broken}")
            return current.version if current else None, version

    current, version = prepared(uri)
    was = f"; version {current} was" if current else ""
    name = version.tags.get(EXPERIMENT, "a model registered by hand")
    text = f"{name} (version {version.version}) is champion of {dataset} again{was}, and was rolled back"
    _move_by_hand(uri, dataset, current, version.version, candidates, cards, text)
    return text


@patiently
def _move_by_hand(
    uri: str,
    dataset: str,
    current: str | None,
    version: str,
    candidates: Sequence[Candidate],
    cards: Cards,
    text: str,
) -> None:
    """Gives a version the alias `champion`, and refuses all other models of today that place. Idempotent.

    Args:
        uri: Address of the store.
        dataset: Name of the dataset.
        current: The version that is champion; None for none.
        version: The version that becomes champion.
        candidates: The dataset's experiments.
        cards: Their model cards.
        text: What is kept as the reason.
    """
    with open_store(uri) as client, store_lock(uri):
        chosen = client.get_model_version(dataset, version)
        refused = {each.state_dict for each in candidates}
        if current and (before := if_there(lambda: client.get_model_version(dataset, current))):
            refused.add(before.tags.get(STATE_DICT, ""))
        refused -= {"", chosen.tags.get(STATE_DICT, "")}
        set_tags(client, chosen, {DECISION: text, REFUSED: " ".join(sorted(refused))})
        client.set_registered_model_alias(dataset, CHAMPION, version)  # first: a kill leaves what the user asked for
        if current and current != version:
            client.set_registered_model_alias(dataset, PREVIOUS, current)
        if aliases_of(client, dataset).get(CHALLENGER) == str(version):
            client.delete_registered_model_alias(dataset, CHALLENGER)
        write_cards(client, versions_with_alias(client, dataset), cards)
