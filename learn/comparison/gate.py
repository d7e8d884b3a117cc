"""Decides from two records, without a store, whether an experiment becomes its dataset's champion."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from learn.comparison.ranking import is_number
from learn.evaluation.metrics import METRICS


@dataclass(frozen=True)
class Candidate:
    """A dataset's best experiment, as its evaluation describes it."""

    experiment: str
    split: str  # the one that decides: validation, or test if there is no validation split
    metric: str  # a name in METRICS
    metrics: dict[str, float]  # all measured metrics by their full name, such as `validation/accuracy`
    state_dict: str  # sha256 of the file with the weights
    data: dict[str, str]  # split → md5 of the samples that it was measured on

    @property
    def value(self) -> float:
        """The value of the metric that decides."""
        return self.metrics[f"{self.split}/{self.metric}"]

    @property
    def result(self) -> str:
        """Text for a message: the metric that decides, and the same metric on the test split."""
        names = dict.fromkeys((f"{self.split}/{self.metric}", f"test/{self.metric}"))
        return ", ".join(f"{name.replace('/', ' ')} {self.metrics[name]:.4f}" for name in names)


@dataclass(frozen=True)
class Champion:
    """A registered version that has the alias `champion`, as the store describes it."""

    dataset: str
    version: str
    experiment: str | None  # None: a user registered it by hand
    metrics: dict[str, float]
    data: dict[str, str]  # split → md5 of the samples that it was measured on
    is_candidate: bool  # the version is the candidate's own model
    is_broken: bool  # the version cannot be loaded

    def value_for(self, candidate: Candidate) -> float | None:
        """The champion's value of the candidate's metric; None if it was measured on other data, or is NaN."""
        if self.data.get(candidate.split) != candidate.data[candidate.split]:
            return None
        value = self.metrics.get(f"{candidate.split}/{candidate.metric}", math.nan)
        return value if is_number(value) else None


@dataclass(frozen=True)
class Decision:
    """Whether the alias `champion` moves to the candidate, and the text that reports it."""

    promote: bool
    text: str  # a sentence that says why the alias stays, or the end of the message that reports the promotion


def judge(candidate: Candidate, champion: Champion | None, experiments: Collection[str]) -> Decision:
    """Decides whether the candidate replaces the champion.

    It does if there is no champion, if its metric on the split that decides is better, or if the champion cannot be
    loaded, was measured on other data, or belongs to an experiment that the dataset no longer has.

    Args:
        candidate: The dataset's best experiment.
        champion: The present champion; None if there is none.
        experiments: Names of all experiments of the dataset.
    """
    if champion is None:
        return Decision(True, "")
    if champion.is_broken:
        return Decision(True, f"; version {champion.version} was, and cannot be loaded")
    if champion.is_candidate:
        return Decision(False, f"{candidate.experiment} stays champion (version {champion.version})")
    if champion.experiment is None:
        return Decision(
            False,
            f"version {champion.version} stays champion: it was registered by hand and cannot be compared; "
            f"to let {candidate.experiment} be it, take the alias away on MLflow's page, then trackway relog",
        )
    if champion.experiment not in experiments:
        was = f"{champion.experiment} (version {champion.version}) was"
        return Decision(True, f"; {was}, and is no experiment of {champion.dataset} any more")
    value = champion.value_for(candidate)
    if value is None or METRICS[candidate.metric].beats(candidate.value, value):
        return Decision(True, "")
    return Decision(
        False,
        f"{champion.experiment} (version {champion.version}, {candidate.split} {candidate.metric} {value:.4f}) "
        f"stays champion; {candidate.experiment} has {candidate.value:.4f}",
    )


def why_never_champion(diagnosis: dict[str, str], split: str, metric: str, value: float | None) -> str | None:
    """Returns why an experiment cannot be champion, even if it is the only one; None if it can.

    Args:
        diagnosis: The experiment's diagnosis, with `kind` and `summary`. A model that predicts the same class for every
            sample is kept out, since its metric only says how common that class is.
        split: The split that decides.
        metric: The metric that decides.
        value: The measured value of that metric.
    """
    if diagnosis["kind"] == "constant":
        return f"it says {diagnosis['summary']}"
    return None if is_number(value) else f"its {split} {metric} is not a number"
