"""The registered model of each dataset, whose alias `champion` marks the best version."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learn.comparison.gate import Candidate, Champion, Decision, Rule, judge
from learn.errors import TrackingError
from learn.evaluation.predictions import Predictions, read
from tasks.tracking.cards import Cards, write_cards
from tasks.tracking.delivery import open_store
from tasks.tracking.models import whole_model, why_broken
from tasks.tracking.runs import find_run
from tasks.tracking.store import ALREADY_EXISTS, if_there, patiently, store_lock
from tasks.tracking.tags import (
    CHALLENGER,
    CHAMPION,
    DATA_TAGS,
    DECISION,
    EXPERIMENT,
    NO_MODEL,
    PREDICTIONS,
    PREVIOUS,
    REFUSED,
    STATE_DICT,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class Verdict:
    """What happened to the alias `champion`."""

    text: str
    is_new: bool = False  # whether the alias moved to another version


@patiently
def register_champion(
    uri: str | None,
    dataset: str,
    candidates: Sequence[Candidate],
    experiments: Collection[str],
    rule: Rule,
    evaluate: Callable[[Any, ModelMetadata], Measured | None],
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
    with open_store(uri) as client, store_lock(uri):
        able = [each for each in candidates if not each.barred]
        kept = [each for each in able if not _never_kept(client, dataset, each)]
        if not kept:
            best = able[0].experiment
            return Verdict(f"no new champion: MLflow has no model of {best}; evaluate says why it cannot be kept")
        current = champion_of(client, dataset)
        champion = _as_record(client, current, candidates, kept[0], experiments, rule, evaluate) if current else None
        decision = judge(kept, champion, experiments, rule)
        if current and champion and champion.own and not champion.is_broken:
            _describe(client, current, next(each for each in candidates if each.experiment == champion.own))
        if decision.champion:
            verdict = _promote(client, dataset, decision.champion, decision, experiments, current)
        else:
            verdict = Verdict(decision.text)
        _set_challenger(client, dataset, decision, experiments)
        write_cards(client, _versions_with_alias(client, dataset), cards)
        return verdict


def _never_kept(client: MlflowClient, dataset: str, candidate: Candidate) -> bool:
    run = find_run(client, dataset, candidate.experiment, candidate.state_dict)
    return run is not None and NO_MODEL in run.data.tags


def _set_challenger(client: MlflowClient, dataset: str, decision: Decision, experiments: Collection[str]) -> None:
    """Gives the alias `challenger` to the model that the decision names, or takes it away."""
    version = _version_of(client, dataset, decision.challenger, experiments) if decision.challenger else None
    if version:
        _tag(client, version, {DECISION: decision.text, **_prefixed(decision.facts)})
        client.set_registered_model_alias(dataset, CHALLENGER, version.version)
    elif CHALLENGER in _aliases(client, dataset):
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
    version = _version_of(client, dataset, best, experiments)
    if version is None:
        return Verdict(f"no new champion: MLflow has no model of {best.experiment}; next: trackway relog")
    text = f"{best.experiment} is champion (version {version.version}, {best.result}){decision.text}"
    refused = set(current.tags.get(REFUSED, "").split()) - {best.state_dict} if current else set()
    _describe(client, version, best)
    _tag(client, version, {DECISION: text, REFUSED: " ".join(sorted(refused)), **_prefixed(decision.facts)})
    if current and current.version != version.version:
        client.set_registered_model_alias(dataset, PREVIOUS, current.version)  # first: a kill leaves a champion
    client.set_registered_model_alias(dataset, CHAMPION, version.version)
    return Verdict(text, is_new=True)


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
            version = _version_of(client, dataset, chosen, experiments)
            if version is None:
                raise TrackingError(
                    f"MLflow has no model of {experiment}; next: trackway relog, which says why or logs it"
                )
            _describe(client, version, chosen)
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
            current, number = champion_of(client, dataset), _aliases(client, dataset).get(PREVIOUS)
            version = if_there(lambda: client.get_model_version(dataset, str(number))) if number else None
            if version is None or (current and current.version == version.version):
                raise TrackingError(
                    f"{dataset} has no champion before the present one; next: trackway promote {dataset} EXPERIMENT "
                    f"--because TEXT, with one of {', '.join(experiments)}"
                )
            if broken := _why_version_broken(client, version):
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
        _tag(client, chosen, {DECISION: text, REFUSED: " ".join(sorted(refused))})
        client.set_registered_model_alias(dataset, CHAMPION, version)  # first: a kill leaves what the user asked for
        if current and current != version:
            client.set_registered_model_alias(dataset, PREVIOUS, current)
        if _aliases(client, dataset).get(CHALLENGER) == str(version):
            client.delete_registered_model_alias(dataset, CHALLENGER)
        write_cards(client, _versions_with_alias(client, dataset), cards)


def _as_record(
    client: MlflowClient,
    version: ModelVersion,
    candidates: Sequence[Candidate],
    best: Candidate,
    experiments: Collection[str],
    rule: Rule,
    evaluate: Callable[[Any, ModelMetadata], Measured | None],
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
        {name: float(value) for name, value in tags.items() if ours and name.startswith(("test/", "validation/"))},
        {split: tags[tag] for split, tag in DATA_TAGS.items() if tag in tags},
        is_broken=_why_version_broken(client, version) is not None,
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
    model, about, broken = _loaded(version)
    found = None if broken else evaluate(model, about)
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


def _tag(client: MlflowClient, version: ModelVersion, tags: dict[str, str]) -> None:
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, version.version, key, value)


def _aliases(client: MlflowClient, dataset: str) -> dict[str, str]:
    """Returns alias → version of a dataset's registered model."""
    registered = if_there(lambda: client.get_registered_model(dataset))
    return {alias: str(version) for alias, version in registered.aliases.items()} if registered else {}


def _versions_with_alias(client: MlflowClient, dataset: str) -> list[ModelVersion]:
    """Returns the champion and the challenger of a dataset, as the store has them now."""
    numbers = [number for alias, number in _aliases(client, dataset).items() if alias in (CHAMPION, CHALLENGER)]
    found = [if_there(partial(client.get_model_version, dataset, number)) for number in sorted(set(numbers))]
    return [version for version in found if version]


def _tags_of(candidate: Candidate) -> dict[str, str]:
    """Returns the tags of a candidate's version.

    The tags, not the run, have the metrics of the kept state_dict: with early stopping the run's curves go on after it.
    """
    return {
        EXPERIMENT: candidate.experiment,
        STATE_DICT: candidate.state_dict,
        **{DATA_TAGS[split]: md5 for split, md5 in candidate.data.items()},
        **{name: repr(value) for name, value in candidate.metrics.items()},
    }


def _describe(client: MlflowClient, version: ModelVersion, best: Candidate) -> None:
    """Updates a version's tags, since its experiment may have been renamed, or measured again on other data."""
    _tag(client, version, _tags_of(best))


def champion_of(client: MlflowClient, dataset: str) -> ModelVersion | None:
    """Returns the version that has the alias `champion`; None if there is none."""
    return version_with(client, dataset, CHAMPION)


def version_with(client: MlflowClient, dataset: str, alias: str) -> ModelVersion | None:
    """Returns the version of a dataset's model that has an alias; None if there is none."""
    if (version := _aliases(client, dataset).get(alias)) is None:
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
        run = find_run(client, version.name, experiment, state_dict) if version.run_id else None
        return run is not None and version.run_id == run.info.run_id
    return digest == state_dict and (name == experiment or name not in experiments)


def _why_version_broken(client: MlflowClient, version: ModelVersion) -> str | None:
    """Returns why a registered version cannot be loaded, as far as the store can tell; None if it can."""
    from mlflow.models import Model

    if model_id := _source(version):
        return why_broken(client, model_id)
    there = if_there(lambda: Model.load(f"models:/{version.name}/{version.version}"))
    return None if there else "its files are not in the artifact store"


def _source(version: ModelVersion) -> str | None:
    """Returns the id of the logged model that a version was made from; None if a user registered something else."""
    prefix, _, model_id = str(version.source).partition("models:/")
    return None if prefix or "/" in model_id or "@" in model_id else model_id


def _version_of(
    client: MlflowClient, dataset: str, candidate: Candidate, experiments: Collection[str]
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
        if its and not _why_version_broken(client, version):
            return version
    return client.create_model_version(
        dataset,
        f"models:/{model_id}",
        run.info.run_id,
        model_id=model_id,
        tags=_tags_of(candidate),
    )


def _registered(client: MlflowClient, name: str) -> ModelVersion:
    """Returns the version that NAME@ALIAS or NAME/VERSION means; raises TrackingError if there is none."""
    models = {model.name: model for model in client.search_registered_models(max_results=1000)}
    model, _, alias = name.rpartition("@")
    number = str(models[model].aliases.get(alias, "")) if model in models else ""
    if not number:
        model, _, number = name.rpartition("/")
    asked = model in models and number.isdecimal()
    if asked and (version := if_there(lambda: client.get_model_version(model, number))):
        return version
    known = [f"{model.name}@{alias}" for model in models.values() for alias in model.aliases]
    there = ", ".join(known or ["none yet: `dvc repro` registers the best of each dataset"])
    raise TrackingError(f"{name} is no registered model; there is {there}")


def _loaded(version: ModelVersion) -> tuple[Any, ModelMetadata, str | None]:
    """Returns a version's model, what is stored with it, and, if it cannot be loaded, the reason."""
    import mlflow.pytorch
    from mlflow.exceptions import MlflowException

    uri = f"models:/{version.name}/{version.version}"
    try:
        model, info = mlflow.pytorch.load_model(uri), mlflow.models.get_model_info(uri)
    except MlflowException:
        raise  # the store failed, not the model
    except Exception as error:  # torch raises many kinds of errors for a damaged file
        return None, ModelMetadata("", (), ()), f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    about = info.metadata or {}
    shape = info.signature.inputs.inputs[0].shape[1:] if info.signature else ()
    classes, arguments = tuple(about.get("classes", ())), about.get("loss_arguments")
    return model, ModelMetadata(about.get("loss", ""), classes, tuple(shape), arguments), None


@patiently
def why_champion_broken(uri: str, dataset: str, *, load: bool = False) -> str | None:
    """Returns why the champion cannot be loaded, as far as the store can tell; None if it can, or if there is none.

    Args:
        uri: Address of the store.
        dataset: Name of the dataset.
        load: Also try to load it; if that fails, mark its model as FAILED, so that it is logged again.
    """
    with open_store(uri) as client:
        version = champion_of(client, dataset)
        if version is None:
            return None
        if not (why := _why_version_broken(client, version)) and load:
            why = _loaded(version)[2]
            if why and (model_id := _source(version)):
                client.finalize_logged_model(model_id, "FAILED")
        return why


def lacks_champion(uri: str, dataset: str, experiment: str, digest: str) -> bool:
    """Returns whether no champion can be loaded although MLflow has the model of an experiment.

    Args:
        uri: Address of the store.
        dataset: Name of the dataset.
        experiment: Name of the experiment.
        digest: sha256 of its state_dict.
    """
    with open_store(uri) as client:
        version = champion_of(client, dataset)
        if version and not _why_version_broken(client, version):
            return False
        run = find_run(client, dataset, experiment, digest)
        return run is not None and whole_model(client, run) is not None


def _create_registered_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != ALREADY_EXISTS:
            raise


@dataclass(frozen=True)
class ModelMetadata:
    """What is stored with a model."""

    loss: str  # name of the loss that it was trained with; "" for a model that was registered by hand
    classes: tuple[str, ...]
    shape: tuple[int, ...]  # of one input
    loss_arguments: dict[str, Any] | None = None  # None: not stored, by an older version of Trackway


@dataclass(frozen=True)
class Measured:
    """What a registered model gives on a split."""

    predicted: Predictions
    loss: float | None  # None: the arguments of the loss that it was trained with are not known


def load_model(uri: str, name: str) -> tuple[Any, ModelMetadata]:
    """Loads a registered model as a function of float32 tensors (B, *shape).

    Args:
        uri: Address of the store.
        name: NAME@ALIAS or NAME/VERSION.

    Raises:
        TrackingError: There is no such model (the text lists those that exist), or it cannot be loaded.
    """
    with open_store(uri) as client:
        version = _registered(client, name)
        broken = _why_version_broken(client, version)
        if not broken:
            model, about, broken = _loaded(version)
        if broken:
            raise TrackingError(
                f"{name} is version {version.version} of {version.name}, which cannot be loaded: {broken}; "
                "next: trackway relog, which logs the champion again"
            )
    return model, about
