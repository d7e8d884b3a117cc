"""Keeps the model cards of registered versions: as an artifact of the run, and as the description of the version.

The text is made elsewhere (tasks/model_card.py). A description that a user wrote on MLflow's page stays.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from learn.errors import TrackingError
from tasks.tracking.delivery import open_store
from tasks.tracking.loading import registered
from tasks.tracking.names import Store
from tasks.tracking.store import connect, if_there, patiently, store_lock
from tasks.tracking.tags import CARD, CARD_FILE, DECISION, EXPERIMENT, STATE_DICT
from tasks.tracking.versions import versions_with_alias

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

DECIDED = "\n## What decided\n\n"  # the heading of the part of a card that may change later
FENCE = "---\n"  # before and after the front matter
MOST = 5000  # characters that MLflow's databases have room for in a description
CUT = f"\n\nParts are left out here; the whole card is the artifact `{CARD_FILE}` of the run."


@dataclass(frozen=True)
class Registered:
    """What only MLflow knows of a registered version."""

    model: str  # MLflow's name of the registered model
    version: str
    decision: str  # why it became champion or did not
    tags: dict[str, str]  # of its run


Card = Callable[[Registered], str]  # makes the text of a model card
Cards = Mapping[tuple[str, str], Card]  # (experiment, sha256 of its state_dict) → its card


def update_cards(store: Store, dataset: str, cards: Cards, command: str) -> None:
    """Writes the cards of a dataset's champion and challenger, or prints why the store does not take them.

    What was decided is kept and told in any case; the next register stage writes the cards.

    Args:
        store: The store.
        dataset: Name of the dataset.
        cards: The model cards of its experiments.
        command: Who says so, such as `register`.
    """
    try:
        _update(store, dataset, cards)
    except TrackingError as error:
        print(f"{command} {dataset}: MLflow does not have the model cards yet: {error}")


@patiently
def _update(store: Store, dataset: str, cards: Cards) -> None:
    with open_store(store.uri) as client, store_lock(store.uri):
        write_cards(client, versions_with_alias(client, store.name(dataset)), cards)


def write_cards(client: MlflowClient, versions: Iterable[ModelVersion], cards: Cards) -> None:
    """Writes the cards of versions, if they are not as they should be. Idempotent.

    A version that is of none of the cards, such as that of an experiment that was trained again since, keeps its card,
    with the decision as it is now. A version that a user registered gets none.
    """
    for version in versions:
        card = cards.get((version.tags.get(EXPERIMENT, ""), version.tags.get(STATE_DICT, "")))
        decision = version.tags.get(DECISION, "")
        run = if_there(partial(client.get_run, version.run_id)) if version.run_id else None
        if run is None or STATE_DICT not in version.tags:
            continue
        if card:
            text = card(Registered(version.name, str(version.version), decision, run.data.tags))
            if version.tags.get(CARD) != _sha256(text):
                _write(client, version, _written(client, version), text)
        elif CARD in version.tags and escaped(decision) not in (version.description or ""):
            old = _written(client, version)
            if (text := with_decision(old, decision)) != old:
                _write(client, version, old, text)


def _write(client: MlflowClient, version: ModelVersion, old: str, text: str) -> None:
    """Writes a card; the tag comes last, so that a card whose writing was stopped is written again."""
    if (version.description or "") in ("", description(old), description(text)):
        client.update_model_version(version.name, version.version, description(text))
    client.log_text(version.run_id, text, CARD_FILE)
    client.set_model_version_tag(version.name, version.version, CARD, _sha256(text))


def _written(client: MlflowClient, version: ModelVersion) -> str:
    """Returns the card of a version as it was written; "" if none was."""
    if CARD_FILE not in {item.path for item in client.list_artifacts(version.run_id)}:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(version.run_id, CARD_FILE, folder)).read_text(encoding="utf-8")


def read_card(store: Store, name: str) -> str:
    """Returns the card of the version that NAME@ALIAS or NAME/VERSION means, without front matter.

    It is the whole card, or if a user wrote the version's description, that; "" if there is neither.

    Args:
        store: The store.
        name: The version.

    Raises:
        TrackingError: There is no such version.
    """
    with connect(store.uri) as client:
        version = registered(client, store, name)
        card = (if_there(partial(_written, client, version)) if version.run_id else None) or ""
        shown = version.description or ""
        return _body(card) if shown == description(card) else shown


def _body(card: str) -> str:
    """Returns a card without front matter."""
    return card.removeprefix(FENCE).partition(FENCE)[2].strip() if card.startswith(FENCE) else card.strip()


def description(card: str) -> str:
    """Returns a card without front matter, and without the last of its parts if it were too long for MLflow."""
    text = _body(card)
    if len(text) <= MOST:
        return text
    first, *parts = text.split("\n## ")
    kept = first[: MOST - len(CUT)]
    for part in parts:
        if len(kept) + len(part) + len("\n## ") <= MOST - len(CUT):
            kept += f"\n## {part}"
    return kept.rstrip() + CUT


def with_decision(card: str, decision: str) -> str:
    """Returns a card with another text below `What decided`."""
    before, heading, after = card.partition(DECIDED)
    _, blank, rest = after.partition("\n\n")
    return f"{before}{heading}{escaped(decision)}{blank}{rest}" if heading else card


def escaped(text: str) -> str:
    """Returns a text that Markdown, also in a table, and HTML show as it is, in one line."""
    for character, entity in {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}.items():
        text = text.replace(character, entity)
    for character in "\\`*_[]~":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
