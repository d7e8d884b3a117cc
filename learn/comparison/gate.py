"""May an experiment become its dataset's champion? Decided from two records, without a store."""

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
    metrics: dict[str, float]  # all that were measured, as `validation/accuracy`
    state_dict: str  # sha256
    data: dict[str, str]  # split → md5 of the samples that it was measured on

    @property
    def value(self) -> float:
        """The metric that decides."""
        return self.metrics[f"{self.split}/{self.metric}"]

    @property
    def result(self) -> str:
        """For a message: the metric that decides, and the same one on the test split."""
        names = dict.fromkeys((f"{self.split}/{self.metric}", f"test/{self.metric}"))
        return ", ".join(f"{name.replace('/', ' ')} {self.metrics[name]:.4f}" for name in names)


@dataclass(frozen=True)
class Champion:
    """A registered version that has the alias `champion`, as the store describes it."""

    dataset: str
    version: str
    experiment: str | None  # None: a user registered it by hand
    metrics: dict[str, float]
    data: dict[str, str]  # split → md5
    is_candidate: bool  # it is the candidate's own model
    is_broken: bool  # it cannot be loaded

    def value_for(self, candidate: Candidate) -> float | None:
        """Its metric that compares with the candidate's; None if it was measured on other data, or is NaN."""
        if self.data.get(candidate.split) != candidate.data[candidate.split]:
            return None
        value = self.metrics.get(f"{candidate.split}/{candidate.metric}", math.nan)
        return value if is_number(value) else None


@dataclass(frozen=True)
class Decision:
    """What is to become of the alias."""

    promote: bool
    text: str  # why it stays, as a sentence; or how the message of the promotion ends


def judge(candidate: Candidate, champion: Champion | None, experiments: Collection[str]) -> Decision:
    """Decides whether the candidate replaces the champion.

    It does if there is no champion, if it is better by its metric on the split that decides, or if the champion cannot
    be loaded, was measured on other data of that split, or is of no experiment of the dataset any more.

    Args:
        candidate: the best experiment.
        champion: the present one, if there is one.
        experiments: the names of all experiments of the dataset.
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
    """Why an experiment cannot be champion, whatever the others are; None if it can.

    Args:
        diagnosis: its `kind` and `summary`. A model that predicts one class for everything is kept out: its metric
            says how common that class is.
        split: the one that decides.
        metric: the one that decides.
        value: what was measured of it.
    """
    if diagnosis["kind"] == "constant":
        return f"it says {diagnosis['summary']}"
    return None if is_number(value) else f"its {split} {metric} is not a number"
