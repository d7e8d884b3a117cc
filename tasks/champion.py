"""Moves a dataset's alias `champion` by hand: back to the champion before, or to an experiment of the user's choice."""

from __future__ import annotations

from learn.comparison.gate import Candidate
from learn.errors import ParamsError, TrackingError, did_you_mean
from tasks.model_card import cards
from tasks.params import Params
from tasks.register import candidates, compared, reports_of
from tasks.tracking.by_hand import promote_by_hand, roll_back
from tasks.tracking.names import Store, store_in


def rollback(params: Params, dataset: str) -> str:
    """Gives the alias `champion` back to the champion before the present one, and returns what was done.

    The model that it is taken from does not become champion again by itself.

    Raises:
        ParamsError: There is no such dataset.
        TrackingError: There is no store, or no champion before, or its model cannot be loaded.
    """
    params.dataset(dataset)
    store, found = _store(params), _evaluated(params, dataset)
    return roll_back(store, dataset, found, params.experiments_of(dataset), cards(params, dataset, found))


def promote(params: Params, dataset: str, experiment: str, because: str) -> str:
    """Makes an experiment's model the champion, whatever its metrics are, and returns what was done.

    The dataset's other models of today do not take its place by themselves; one that is trained later may.

    Args:
        params: The parameters.
        dataset: Name of the dataset.
        experiment: Name of one of its experiments, which was evaluated.
        because: The reason, which is kept with the version.

    Raises:
        ParamsError: There is no such dataset, or no such experiment of it, or there is no reason.
        TrackingError: There is no store, or MLflow does not have the experiment's model.
    """
    params.dataset(dataset)
    names = params.experiments_of(dataset)
    if experiment not in names:
        known = f"it must be one of {', '.join(names)}{did_you_mean(experiment, names)}"
        raise ParamsError([f"{experiment} is no experiment of {dataset}; {known}"])
    if not because.strip():
        raise ParamsError(["--because is empty; say why, for it is kept with the version"])
    store, found = _store(params), _evaluated(params, dataset)
    return promote_by_hand(store, dataset, found, names, cards(params, dataset, found), experiment, because.strip())


def _evaluated(params: Params, dataset: str) -> list[Candidate]:
    """Returns all experiments of a dataset; raises TrackingError if one was not evaluated."""
    try:
        return candidates(params, dataset, compared(params, dataset), reports_of(params, dataset))
    except FileNotFoundError as error:
        raise TrackingError(f"{error.filename} is not there; next: dvc repro register@{dataset}") from error


def _store(params: Params) -> Store:
    if not (store := store_in(params)):
        raise TrackingError("tracking is null in params.yaml: there is no store with champions")
    return store
