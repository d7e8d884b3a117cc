"""Decides from records, without a store, whether one of a dataset's experiments becomes its champion."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import fsum

from learn.comparison.defaults import LEVEL, MARGIN, REQUIRE, Require
from learn.comparison.paired import Comparison, compare, holm, what_would_tell
from learn.comparison.ranking import is_number
from learn.evaluation.metrics import METRICS
from learn.evaluation.predictions import Predictions

POINT = 0.01  # the difference in accuracy for which a message says how many samples would tell it


@dataclass(frozen=True)
class Rule:
    """What a candidate must have to replace the champion: `champion` of a dataset in params.yaml."""

    require: Require = REQUIRE
    level: float = LEVEL
    margin: float = MARGIN
    stratified: bool = False  # whether the split that decides is


@dataclass(frozen=True)
class Candidate:
    """An experiment of the dataset, as its evaluation describes it."""

    experiment: str
    split: str  # the one that decides: validation, or test if there is no validation split
    metric: str  # a name in METRICS
    metrics: dict[str, float]  # all measured metrics by their full name, such as `validation/accuracy`
    state_dict: str  # sha256 of the file with the weights
    data: dict[str, str]  # split → md5 of the samples that it was measured on
    predicted: Predictions | None = None  # on the split that decides
    barred: str = ""  # why it cannot be champion, even if it is the only one

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
    own: str | None = None  # the candidate whose model it is
    is_broken: bool = False  # it cannot be loaded
    predicted: Predictions | None = None  # on the split that decides, as it is now
    refused: frozenset[str] = frozenset()  # sha256 of state_dicts over which a user chose it by hand
    decision: str = ""  # what was said when it became champion
    barred: str = ""  # why it cannot be champion now, such as a limit in params.yaml that it exceeds

    def beside(self, candidate: Candidate) -> str:
        """Its name in a sentence about a candidate: its version if that one is a later model of the same experiment."""
        return f"version {self.version}" if candidate.experiment == self.experiment else str(self.experiment)

    def has_predicted(self, candidate: Candidate) -> bool:
        """Whether the champion's predictions for the candidate's data are known."""
        return self.predicted is not None and self.predicted.data == candidate.data[candidate.split]

    def value_for(self, candidate: Candidate) -> float | None:
        """The champion's value of the candidate's metric on the candidate's data; None if it is not known or is NaN."""
        data, score = candidate.data[candidate.split], METRICS[candidate.metric].score
        if score and self.predicted and self.has_predicted(candidate):
            each = [score(self.predicted.targets, predictions) for predictions in self.predicted.by_seed]
            return fsum(each) / len(each)
        if self.data.get(candidate.split) != data:
            return None
        value = self.metrics.get(f"{candidate.split}/{candidate.metric}", math.nan)
        return value if is_number(value) else None


@dataclass(frozen=True)
class Decision:
    """To which candidate the aliases go, and the text that reports it."""

    champion: Candidate | None  # None: the alias stays
    text: str  # a sentence that says why the alias stays, or the end of the message that reports the promotion
    challenger: Candidate | None = None  # the best one that did not become champion, although it is better
    facts: dict[str, str] = field(default_factory=dict)  # the numbers that decided


def judge(
    candidates: Sequence[Candidate], champion: Champion | None, experiments: Collection[str], rule: Rule
) -> Decision:
    """Decides whether a candidate replaces the champion.

    One does if there is no champion, if the champion cannot be loaded, belongs to an experiment that the dataset no
    longer has, exceeds a limit, or was measured on other data and cannot be measured anew. Otherwise it must be better
    on the split that decides and, by default, the difference must be more than chance explains.

    Args:
        candidates: The dataset's experiments that are not barred, best first; at least one.
        champion: The present champion; None if there is none.
        experiments: Names of all experiments of the dataset.
        rule: What a candidate must have.
    """
    best = candidates[0]
    if champion is None:
        return Decision(best, "")
    allowed = [each for each in candidates if each.state_dict not in champion.refused]
    stays = f"no new champion: {champion.decision}"
    if champion.is_broken:
        own = next((each for each in candidates if each.experiment == champion.own), None)
        return Decision(own or (allowed or [best])[0], f"; version {champion.version} was, and cannot be loaded")
    if champion.own == best.experiment:
        return Decision(None, f"{best.experiment} stays champion (version {champion.version}){_ahead(candidates)}")
    if champion.experiment is None:
        return Decision(
            None,
            f"version {champion.version} stays champion: it was registered by hand and cannot be compared; "
            f"to let {best.experiment} be it, take the alias away on MLflow's page, then trackway relog",
        )
    if champion.experiment not in experiments:
        was = f"{champion.experiment} (version {champion.version}) was"
        gone = f"; {was}, and is no experiment of {champion.dataset} any more"
        return Decision(allowed[0], gone) if allowed else Decision(None, stays)
    if champion.barred:
        was = f"; {champion.experiment} (version {champion.version}) was, and cannot be: {champion.barred}"
        return Decision(allowed[0], was) if allowed else Decision(None, stays)
    rivals = [each for each in allowed if each.experiment != champion.own]
    if rule.require == "any":
        names = [each.experiment for each in candidates]
        rivals = [r for r in rivals if champion.own not in names[: names.index(r.experiment)]]
    if not rivals:
        return Decision(None, stays)
    value = champion.value_for(rivals[0])
    if value is None:
        return Decision(rivals[0], f"; {champion.beside(rivals[0])} was, and cannot be measured on this data")
    return _compared(rivals, champion, value, rule)


def _ahead(candidates: Sequence[Candidate]) -> str:
    """Returns the end of a sentence that says by which numbers the first of the candidates is the best."""
    best, *others = candidates
    if not others:
        return ""
    its = f"its {best.split} {best.metric} is {best.value:.4f}"
    return f"; {its}, that of the next, {others[0].experiment}, is {others[0].value:.4f}"


def _compared(rivals: list[Candidate], champion: Champion, value: float, rule: Rule) -> Decision:
    """Decides by the metric and, if the rule says so, by a paired test of each rival, corrected for being several."""
    metric, best = METRICS[rivals[0].metric], rivals[0]
    ahead = [metric.beats(rival.value, value) and abs(rival.value - value) > rule.margin for rival in rivals]
    found = [_comparison(each, champion, rule) if leads else None for each, leads in zip(rivals, ahead, strict=True)]
    corrected = holm([each.p if each else 1.0 for each in found])  # those that are not ahead count as compared, too
    p_values = [p if each else None for each, p in zip(found, corrected, strict=True)]
    for rival, is_ahead, p in zip(rivals, ahead, p_values, strict=True):
        if rule.require == "any" or (is_ahead and (p is None or p <= rule.level)):
            facts = _facts(rival, champion, value, p)
            told = f"; {champion.beside(rival)} has {value:.4f} there" + (f" (p = {p:.2g})" if p is not None else "")
            return Decision(rival, told, facts=facts)
    newcomer = f"the newly trained {best.experiment}" if best.experiment == champion.experiment else best.experiment
    stays = (
        f"{champion.experiment} (version {champion.version}, {best.split} {best.metric} {value:.4f}) stays champion; "
        f"{newcomer} has {best.value:.4f}"
    )
    if not metric.beats(best.value, value):
        return Decision(None, stays)
    comparison, p = found[0], p_values[0]
    facts = _facts(best, champion, value, p)
    if abs(best.value - value) <= rule.margin:
        return Decision(None, f"{stays}, which is not ahead by more than the margin, {rule.margin}", best, facts)
    assert comparison
    assert p is not None
    why = f", which is not separable from it (p = {p:.2g})"
    if best.metric == "accuracy":
        why += f"; {what_would_tell(POINT, comparison, rule.level)} would tell a difference of 1 point"
    return Decision(None, stays + why, best, facts)


def _comparison(rival: Candidate, champion: Champion, rule: Rule) -> Comparison | None:
    """Compares a rival's predictions with the champion's; None if the rule asks for none, or if they are not known."""
    ours, theirs = rival.predicted, champion.predicted
    if rule.require != "separable" or METRICS[rival.metric].score is None:
        return None
    if ours is None or theirs is None or ours.data != theirs.data or ours.classes != theirs.classes:
        return None
    try:
        return compare(
            rival.metric,
            ours.targets,
            ours.predictions,
            theirs.predictions,
            classes=ours.classes,
            stratified=rule.stratified,
            level=None,
        )
    except (ValueError, ArithmeticError):  # a metric of a user's own, which cannot be computed for some predictions
        return Comparison(math.nan, None, 1.0, math.nan, len(ours.targets))


def _facts(rival: Candidate, champion: Champion, value: float, p: float | None) -> dict[str, str]:
    """Returns the numbers that decided, for the version's tags."""
    name = f"{rival.split} {rival.metric}"
    facts = {"compared_with": f"{champion.experiment} (version {champion.version}, {name} {value:.4f})"}
    return facts | ({"p": f"{p:.3g}"} if p is not None else {})
