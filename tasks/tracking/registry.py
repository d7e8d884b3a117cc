"""The registered model of each dataset, whose alias `champion` marks the best version."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from learn.comparison.gate import Candidate, Champion, Decision, Rule, judge
from learn.errors import TrackingError
from learn.evaluation.predictions import Predictions
from tasks.tracking.cards import Cards, update_cards
from tasks.tracking.delivery import open_store
from tasks.tracking.loading import LoadedModel, loaded
from tasks.tracking.moves import RULE, finish_move, forget_move, move_champion
from tasks.tracking.names import MlflowName, Store
from tasks.tracking.runs import find_run
from tasks.tracking.store import patiently, store_lock
from tasks.tracking.tags import (
    CHALLENGER,
    DATA_TAGS,
    DECISION,
    EXPERIMENT,
    JUDGED,
    NO_MODEL,
    REFUSED,
    STAGE,
    STATE_DICT,
)
from tasks.tracking.versions import (
    aliases_of,
    champion_of,
    describe_version,
    is_model_of,
    metrics_in,
    predictions_of,
    set_tags,
    version_of,
    why_version_broken,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion


class ChampionMoved(TrackingError):
    """Another process changed the champion while this one judged; it must judge again."""


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
    store: Store | None,
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
        store: The store; None does nothing.
        dataset: Name of the dataset.
        candidates: All experiments of the dataset, best first, also those that are barred.
        experiments: Names of all experiments of the dataset.
        rule: What a candidate must have to replace the champion.
        evaluate: Measures a registered model on the split that decides; returns None if it does not fit the data.
        cards: The model cards of the experiments.
    """
    if not store:
        return Verdict("no champion: tracking is off")
    verdict = _decide(store, dataset, candidates, experiments, rule, evaluate)
    update_cards(store, dataset, cards, "register")
    return verdict


@patiently
def _decide(
    store: Store,
    dataset: str,
    candidates: Sequence[Candidate],
    experiments: Collection[str],
    rule: Rule,
    evaluate: Callable[[LoadedModel], Measured | None],
) -> Verdict:
    """Gives the aliases to models; the arguments are those of `register_champion`.

    A new champion is told also if the process that chose it was stopped before it could tell.
    """
    with open_store(store.uri) as client, store_lock(store.uri):
        model = store.name(dataset)
        unfinished = finish_move(client, model)
        for attempt in Retrying(retry=retry_if_exception_type(ChampionMoved), stop=stop_after_attempt(5), reraise=True):
            with attempt:
                verdict = _judged(client, store, dataset, candidates, experiments, rule, evaluate)
        champion = champion_of(client, model) if unfinished == RULE and not verdict.is_new else None
        forget_move(client, model)
        return replace(verdict, text=champion.tags.get(DECISION, ""), is_new=True) if champion else verdict


def _judged(
    client: MlflowClient,
    store: Store,
    dataset: str,
    candidates: Sequence[Candidate],
    experiments: Collection[str],
    rule: Rule,
    evaluate: Callable[[LoadedModel], Measured | None],
) -> Verdict:
    """Judges the candidates and moves the aliases; the arguments are those of `register_champion`."""
    model = store.name(dataset)
    current = champion_of(client, model)
    able = [each for each in candidates if not each.barred]
    if not able:
        stays = f"version {current.version} stays champion" if current else "no champion"
        return Verdict(f"{stays}: no experiment can be")
    runs = {each.experiment: find_run(client, model, each.experiment, each.state_dict) for each in able}
    kept = [each for each in able if not ((run := runs[each.experiment]) and NO_MODEL in run.data.tags)]
    if not kept:
        best = able[0].experiment
        return Verdict(f"no new champion: MLflow has no model of {best}; evaluate says why it cannot be kept")
    champion = (
        _as_record(client, dataset, current, candidates, kept[0], experiments, rule, evaluate) if current else None
    )
    decision = judge(kept, champion, experiments, rule)
    if current and champion and champion.own and not champion.is_broken:
        describe_version(client, current, next(each for each in candidates if each.experiment == champion.own))
    _set_challenger(client, model, decision, experiments)
    new = _judged_first(client, {each.experiment: run for each in kept if (run := runs[each.experiment])})
    if decision.champion:
        return _promote(client, model, decision.champion, decision, experiments, current)
    return Verdict(decision.text, refused=tuple(name for name in new if not (champion and name == champion.own)))


def _judged_first(client: MlflowClient, runs: dict[str, Run]) -> list[str]:
    """Marks runs as judged, and returns those experiments of which no run with the same state_dict was before."""
    first = []
    for experiment, run in runs.items():
        if JUDGED in run.data.tags:
            continue
        same = " AND ".join(f"tags.`{tag}` = '{run.data.tags[tag]}'" for tag in (STAGE, STATE_DICT))
        before = client.search_runs([run.info.experiment_id], f"{same} AND tags.`{JUDGED}` = 'true'", max_results=1)
        if not before:
            first.append(experiment)
        client.set_tag(run.info.run_id, JUDGED, "true")
    return first


def _set_challenger(
    client: MlflowClient, dataset: MlflowName, decision: Decision, experiments: Collection[str]
) -> None:
    """Gives the alias `challenger` to the model that the decision names, or takes it away."""
    version = version_of(client, dataset, decision.challenger, experiments) if decision.challenger else None
    if version:
        set_tags(client, version, {DECISION: decision.text, **_prefixed(decision.facts)})
        client.set_registered_model_alias(dataset, CHALLENGER, version.version)
    elif CHALLENGER in aliases_of(client, dataset):
        client.delete_registered_model_alias(dataset, CHALLENGER)


def _promote(
    client: MlflowClient,
    dataset: MlflowName,
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
    _check_unmoved(client, dataset, current)
    move_champion(client, dataset, RULE, version.version, current.version if current else None)
    _check_unmoved(client, dataset, version)
    return Verdict(text, is_new=True)


def _check_unmoved(client: MlflowClient, dataset: MlflowName, expected: ModelVersion | None) -> None:
    """Raises ChampionMoved if the champion is not a version that it must be: a tracking server has no lock."""
    found = champion_of(client, dataset)
    if (found and found.version) != (expected and expected.version):
        raise ChampionMoved(
            f"another process has changed the champion of {dataset} again and again; run the same command again"
        )


def _as_record(
    client: MlflowClient,
    dataset: str,
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
        dataset,
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
                barred=each.barred,
            )
    if champion.is_broken or champion.experiment not in experiments:
        return champion
    if rule.require != "separable" and champion.value_for(best) is not None:
        return champion
    champion = replace(champion, predicted=predictions_of(client, version, best.split))
    if champion.value_for(best) is not None and champion.has_predicted(best):
        return champion
    model, _ = loaded(version)
    found = evaluate(model) if model else None
    if found is None:
        return replace(champion, predicted=None)
    anew = {} if found.loss is None else {f"{best.split}/loss": found.loss}
    return replace(champion, metrics=anew, data={best.split: found.predicted.data}, predicted=found.predicted)


def _prefixed(facts: dict[str, str]) -> dict[str, str]:
    return {f"{DECISION}.{name}": value for name, value in facts.items()}
