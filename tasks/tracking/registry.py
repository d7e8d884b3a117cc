"""The registered model of each dataset, whose alias `champion` marks the best version."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from learn.comparison.gate import Candidate, Champion, Decision, Rule, judge
from learn.errors import TrackingError
from learn.evaluation.predictions import Predictions, read
from tasks.tracking.cards import Cards, write_cards
from tasks.tracking.delivery import open_store
from tasks.tracking.loading import LoadedModel, loaded
from tasks.tracking.runs import find_run
from tasks.tracking.store import if_there, patiently, store_lock
from tasks.tracking.tags import (
    CHALLENGER,
    CHAMPION,
    DATA_TAGS,
    DECISION,
    EXPERIMENT,
    JUDGED,
    NO_MODEL,
    PREDICTIONS,
    PREVIOUS,
    REFUSED,
    STATE_DICT,
)
from tasks.tracking.versions import (
    aliases_of,
    champion_of,
    describe_version,
    is_model_of,
    metrics_in,
    set_tags,
    version_of,
    versions_with_alias,
    why_version_broken,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class Measured:
    """What a registered model gives on a split."""

    predicted: Predictions
    loss: float | None  # None: the arguments of the loss that it was trained with are not known


@dataclass(frozen=True)
class Verdict:
    """What happened to the alias `champion`."""

    text: str
    is_new: bool = False  # whether the alias moved to another version
    refused: tuple[str, ...] = ()  # the experiments whose models were judged for the first time and are not champion


def register_champion(
    uri: str | None,
    dataset: str,
    candidates: Sequence[Candidate],
    experiments: Collection[str],
    rule: Rule,
    evaluate: Callable[[LoadedModel], Measured | None],
    cards: Cards,
) -> Verdict:
    """Gives the alias `champion` to the candidate that learn/comparison/gate.py chooses, and `challenger` to the next.

    Idempotent: if it is stopped anywhere and called again, the result is the same.

    Args:
        uri: Address of the store; None does nothing.
        dataset: Name of the dataset.
        candidates: All experiments of the dataset, best first, also those that are barred.
        experiments: Names of all experiments of the dataset.
        rule: What a candidate must have to replace the champion.
        evaluate: Measures a registered model on the split that decides; returns None if it does not fit the data.
        cards: The model cards of the experiments.
    """
    if not uri:
        return Verdict("no champion: tracking is off")
    verdict = _decide(uri, dataset, candidates, experiments, rule, evaluate)
    try:
        _write_cards(uri, dataset, cards)
    except TrackingError as error:  # the next register stage writes them; what was decided must be told now
        print(f"register {dataset}: MLflow does not have the model cards yet: {error}")
    return verdict


@patiently
def _decide(
    uri: str,
    dataset: str,
    candidates: Sequence[Candidate],
    experiments: Collection[str],
    rule: Rule,
    evaluate: Callable[[LoadedModel], Measured | None],
) -> Verdict:
    """Gives the aliases to models; the arguments are those of `register_champion`.

    The alias `champion` comes last, so that a new champion is told even if the store fails to answer once before it.
    """
    with open_store(uri) as client, store_lock(uri):
        able = [each for each in candidates if not each.barred]
        runs = {each.experiment: find_run(client, dataset, each.experiment, each.state_dict) for each in able}
        kept = [each for each in able if not ((run := runs[each.experiment]) and NO_MODEL in run.data.tags)]
        if not kept:
            best = able[0].experiment
            return Verdict(f"no new champion: MLflow has no model of {best}; evaluate says why it cannot be kept")
        current = champion_of(client, dataset)
        champion = _as_record(client, current, candidates, kept[0], experiments, rule, evaluate) if current else None
        decision = judge(kept, champion, experiments, rule)
        if current and champion and champion.own and not champion.is_broken:
            describe_version(client, current, next(each for each in candidates if each.experiment == champion.own))
        _set_challenger(client, dataset, decision, experiments)
        new = {each.experiment: run for each in kept if (run := runs[each.experiment]) and JUDGED not in run.data.tags}
        for run in new.values():
            client.set_tag(run.info.run_id, JUDGED, "true")
        if decision.champion:
            return _promote(client, dataset, decision.champion, decision, experiments, current)
        return Verdict(decision.text, refused=tuple(name for name in new if not (champion and name == champion.own)))


@patiently
def _write_cards(uri: str, dataset: str, cards: Cards) -> None:
    with open_store(uri) as client, store_lock(uri):
        write_cards(client, versions_with_alias(client, dataset), cards)


def _set_challenger(client: MlflowClient, dataset: str, decision: Decision, experiments: Collection[str]) -> None:
    """Gives the alias `challenger` to the model that the decision names, or takes it away."""
    version = version_of(client, dataset, decision.challenger, experiments) if decision.challenger else None
    if version:
        set_tags(client, version, {DECISION: decision.text, **_prefixed(decision.facts)})
        client.set_registered_model_alias(dataset, CHALLENGER, version.version)
    elif CHALLENGER in aliases_of(client, dataset):
        client.delete_registered_model_alias(dataset, CHALLENGER)


def _promote(
    client: MlflowClient,
    dataset: str,
    best: Candidate,
    decision: Decision,
    experiments: Collection[str],
    current: ModelVersion | None,
) -> Verdict:
    """Gives a candidate the alias `champion`, and the version that had it the alias `previous-champion`."""
    version = version_of(client, dataset, best, experiments)
    if version is None:
        return Verdict(f"no new champion: MLflow has no model of {best.experiment}; next: trackway relog")
    text = f"{best.experiment} is champion (version {version.version}, {best.result}){decision.text}"
    refused = set(current.tags.get(REFUSED, "").split()) - {best.state_dict} if current else set()
    describe_version(client, version, best)
    set_tags(client, version, {DECISION: text, REFUSED: " ".join(sorted(refused)), **_prefixed(decision.facts)})
    if current and current.version != version.version:
        client.set_registered_model_alias(dataset, PREVIOUS, current.version)  # first: a kill leaves a champion
    client.set_registered_model_alias(dataset, CHAMPION, version.version)
    return Verdict(text, is_new=True)


def _as_record(
    client: MlflowClient,
    version: ModelVersion,
    candidates: Sequence[Candidate],
    best: Candidate,
    experiments: Collection[str],
    rule: Rule,
    evaluate: Callable[[LoadedModel], Measured | None],
) -> Champion:
    """Returns a registered version as the gate needs it; its arguments are those of `register_champion`.

    best: The best candidate, which says which data and which metric decide.
    """
    tags = version.tags
    ours = STATE_DICT in tags
    champion = Champion(
        version.name,
        version.version,
        tags.get(EXPERIMENT, "") if ours else None,
        metrics_in(tags) if ours else {},
        {split: tags[tag] for split, tag in DATA_TAGS.items() if tag in tags},
        is_broken=why_version_broken(client, version) is not None,
        refused=frozenset(tags.get(REFUSED, "").split()),
        decision=tags.get(DECISION, ""),
    )
    for each in candidates:
        if is_model_of(client, version, each.experiment, each.state_dict, experiments):
            return replace(
                champion,
                own=each.experiment,
                experiment=each.experiment,
                metrics=each.metrics,
                data=each.data,
                predicted=each.predicted,
            )
    if champion.is_broken or champion.experiment not in experiments:
        return champion
    if rule.require != "separable" and champion.value_for(best) is not None:
        return champion
    champion = replace(champion, predicted=_predictions_of(client, version, best.split))
    if champion.value_for(best) is not None and champion.has_predicted(best):
        return champion
    model, _ = loaded(version)
    found = evaluate(model) if model else None
    if found is None:
        return replace(champion, predicted=None)
    anew = {} if found.loss is None else {f"{best.split}/loss": found.loss}
    return replace(champion, metrics=anew, data={best.split: found.predicted.data}, predicted=found.predicted)


def _predictions_of(client: MlflowClient, version: ModelVersion, split: str) -> Predictions | None:
    """Returns what a version's run says that it predicted; None if it does not say so."""
    items = if_there(lambda: client.list_artifacts(version.run_id)) if version.run_id else None
    if PREDICTIONS not in {item.path for item in items or ()}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return read(Path(client.download_artifacts(version.run_id, PREDICTIONS, folder)), split)


def _prefixed(facts: dict[str, str]) -> dict[str, str]:
    return {f"{DECISION}.{name}": value for name, value in facts.items()}
