"""Moves the alias `champion`, and keeps what is about to move, so that a kill between two writes loses nothing."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tasks.tracking.names import MlflowName
from tasks.tracking.store import if_there
from tasks.tracking.tags import CHAMPION, MOVE, PREVIOUS

if TYPE_CHECKING:
    from mlflow import MlflowClient

RULE, BY_HAND, ROLLBACK = "rule", "by-hand", "rollback"  # what moves the alias


def move_champion(client: MlflowClient, dataset: MlflowName, by: str, version: str, current: str | None) -> None:
    """Gives a version the alias `champion`, and the version that has it the alias `previous-champion`.

    The registered model's tag MOVE says what moves. It stays until `forget_move`; the caller holds the store's lock.

    Args:
        client: A client of the store.
        dataset: Name of the dataset in MLflow.
        by: RULE, BY_HAND or ROLLBACK.
        version: The version that becomes champion.
        current: The version that is champion; None for none.
    """
    if version != current:
        client.set_registered_model_tag(dataset, MOVE, f"{by} {version} {current or ''}".strip())
        finish_move(client, dataset)


def finish_move(client: MlflowClient, dataset: MlflowName) -> str | None:
    """Moves the aliases as MOVE says, and returns what moves them: RULE, BY_HAND or ROLLBACK; None if nothing does."""
    registered = if_there(lambda: client.get_registered_model(dataset))
    if registered is None or MOVE not in registered.tags:
        return None
    by, *versions = registered.tags[MOVE].split()
    for alias, version in zip((CHAMPION, PREVIOUS), versions, strict=False):
        if if_there(partial(client.get_model_version, dataset, version)) is None:
            return None  # it was deleted on MLflow's page
        if str(registered.aliases.get(alias)) != version:
            client.set_registered_model_alias(dataset, alias, version)
    return by


def forget_move(client: MlflowClient, dataset: MlflowName) -> None:
    """Says that the aliases are where they should be."""
    registered = if_there(lambda: client.get_registered_model(dataset))
    if registered and MOVE in registered.tags:
        client.delete_registered_model_tag(dataset, MOVE)
