"""Keeps the trials of a sweep in an Optuna study.

One process at a time asks for trials and tells their results. What a kill left running is marked as interrupted and
trained again. The sampler is seeded anew for each trial, so a sweep that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from learn.evaluation.metrics import METRICS
from tasks.sweep.space import Choice, Dimension, parse
from tasks.sweep.trial import COMPLETE, FAILED, Outcome

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

KEY = "key"  # the user attribute of a study in Optuna by which MLflow knows the sweep
NUMBER, OUTCOME = "number", "outcome"  # user attributes of a trial; one that was interrupted has no outcome


@dataclass(frozen=True)
class Identity:
    """What all trials of a study have in common; if it changes, a new study begins."""

    experiment: str
    space: dict[str, str]  # key → space, as it was written
    seed: int  # of the sampler
    metric: str  # the metric that decides, by its name in METRICS
    part: str  # the split on which it decides
    settings: dict[str, Any]  # the experiment without the keys in `space`
    versions: dict[str, str]  # md5 of the data and the code that a training reads
    device: str  # as in params.yaml; it and the threads change the last bits
    threads: int

    @property
    def name(self) -> str:
        """The study's name, which is the same for the same identity."""
        text = json.dumps(asdict(self), sort_keys=True, default=str)
        return f"{self.experiment} {hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def changes(self, other: Identity) -> list[str]:
        """Returns what differs from another identity, in words."""
        words = {
            "space": "the space",
            "seed": "the seed",
            "metric": "the metric that decides",
            "part": "the part that decides",
            "settings": "the experiment's other settings",
            "versions": "the data or the code",
            "device": "the device",
            "threads": "the threads",
        }
        if set(self.space) != set(other.space):  # then the other settings are not the same keys
            del words["settings"]
        return [word for name, word in words.items() if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True)
class Result:
    """A trial that has ended."""

    number: int  # counted from 0, without those that were interrupted
    values: dict[str, Any]  # key below the experiment → value
    outcome: Outcome
    started: float  # seconds since 1970
    ended: float

    def value(self, metric: str) -> float | None:
        """Returns the metric that decides; None unless the trial is complete."""
        return self.outcome.metrics.get(metric)


class Sweep:
    """The trials of one identity."""

    def __init__(self, study: Study, identity: Identity) -> None:
        self._study = study
        self.identity = identity
        self.space = parse([f"{key}={text}" for key, text in identity.space.items()])

    @property
    def key(self) -> str:
        """By which MLflow knows the sweep; another one if the file was deleted and the sweep began anew."""
        return str(self._study.user_attrs[KEY])

    @property
    def study(self) -> Study:
        """Optuna's study, for figures."""
        return self._study

    def results(self) -> list[Result]:
        """Returns the trials that have ended by themselves, sorted by number."""
        trials = [trial for trial in self._counted() if trial.state.is_finished()]
        return sorted(map(self._result, trials), key=lambda result: result.number)

    def ask(self) -> Trial:
        """Begins a trial, whose values depend on the seed, its number and the trials that have ended.

        If there are only choices, no combination is tried twice before all of them are.
        """
        import numpy as np
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        taken = {trial.user_attrs.get(NUMBER) for trial in self._counted()}
        number = next(number for number in itertools.count() if number not in taken)
        seed = int(np.random.SeedSequence([self.identity.seed, number]).generate_state(1)[0])
        self._study.sampler = TPESampler(seed=seed)
        distributions = {dimension.key: _distribution(dimension) for dimension in self.space}
        tried = [trial.params for trial in self._counted()]
        trial = self._study.ask(distributions)
        if trial.params in tried and (left := next((each for each in self._combinations() if each not in tried), None)):
            self._study.tell(trial, state=TrialState.FAIL)
            self._study.enqueue_trial(left)
            trial = self._study.ask(distributions)
        trial.set_user_attr(NUMBER, number)
        return trial

    @property
    def size(self) -> int | None:
        """Number of combinations if there are only choices; None if numbers are drawn from a span."""
        return math.prod(map(len, self._labels)) if self._labels else None

    @property
    def _labels(self) -> list[tuple[str, ...]]:
        """The choices of each key, as Optuna knows them; none if numbers are drawn from a span."""
        labels = [dimension.space.labels for dimension in self.space if isinstance(dimension.space, Choice)]
        return labels if len(labels) == len(self.space) else []

    def _combinations(self) -> Iterator[dict[str, Any]]:
        """Yields the parameters of all possible trials, as Optuna knows them, if there are only choices."""
        keys = [dimension.key for dimension in self.space]
        for combination in itertools.product(*self._labels) if self._labels else ():
            yield dict(zip(keys, combination, strict=True))

    def values(self, trial: Trial | FrozenTrial) -> dict[str, Any]:
        """Returns the values of a trial's keys."""
        return {each.key: each.space.value(trial.params[each.key]) for each in self.space}

    def report(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> bool:
        """Tells Optuna an epoch's metrics, and returns whether the trial should go on.

        The metric that decides is reported if each epoch measures it, otherwise the loss.
        """
        metric, part = METRICS[self.identity.metric], self.identity.part
        value = metrics.get(f"{part}/{self.identity.metric}")
        if value is None:
            loss = metrics[f"{part}/loss"]
            value = loss if metric.better == "lower" else -loss
        trial.report(value, epoch)
        return not trial.should_prune()

    def tell(self, trial: Trial, outcome: Outcome) -> Result:
        """Keeps how a trial ended."""
        trial.set_user_attr(OUTCOME, asdict(outcome))
        return self._result(self._end(trial.number, outcome))

    def _end(self, number: int, outcome: Outcome) -> FrozenTrial:
        """Tells Optuna how a trial ended; it learns from one that diverged as from one that was pruned."""
        from optuna.trial import TrialState

        if outcome.ended == COMPLETE:
            return self._study.tell(number, outcome.metrics[self.identity.metric])
        return self._study.tell(number, state=TrialState.FAIL if outcome.ended == FAILED else TrialState.PRUNED)

    def interrupt(self) -> int:
        """Ends the trials that run, whose process was stopped, and returns how many; others take their places."""
        from optuna.trial import TrialState

        left = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in left:
            if OUTCOME in trial.user_attrs:  # the process was stopped between its two writes
                self._end(trial.number, Outcome(**trial.user_attrs[OUTCOME]))
            else:
                self._study.tell(trial.number, state=TrialState.FAIL)
        return len(left)

    def prune(self, epochs: int) -> None:
        """Has trials stopped early that are worse than the median of those before at the same epoch."""
        from optuna.pruners import MedianPruner

        self._study.pruner = MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, epochs // 10))

    def _counted(self) -> list[FrozenTrial]:
        """Returns the trials that run or have ended by themselves."""
        trials = self._study.get_trials(deepcopy=False)
        return [trial for trial in trials if OUTCOME in trial.user_attrs or not trial.state.is_finished()]

    def _result(self, trial: FrozenTrial) -> Result:
        assert trial.datetime_start
        assert trial.datetime_complete
        return Result(
            trial.user_attrs[NUMBER],
            self.values(trial),
            Outcome(**trial.user_attrs[OUTCOME]),
            trial.datetime_start.timestamp(),
            trial.datetime_complete.timestamp(),
        )


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space = dimension.space
    if isinstance(space, Choice):
        return CategoricalDistribution(space.labels)
    if space.whole:
        return IntDistribution(int(space.low), int(space.high), log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)
