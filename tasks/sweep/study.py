"""Keeps the trials of a sweep in an Optuna study, in mlruns/sweeps/EXPERIMENT.db (SQLite), which survives kills.

One process at a time asks for trials and tells their results. What a kill left running is marked as interrupted and
trained again. The sampler is seeded anew for each trial, so a sweep that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learn.errors import DataError, SweepError
from learn.evaluation.metrics import METRICS
from tasks.sweep.space import Choice, Dimension, parse
from tasks.sweep.trial import COMPLETE, FAILED, Outcome
from tasks.tracking.address import project_folder

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

IDENTITY, USED = "identity", "used"  # user attributes of a study in Optuna: the second is when it was last opened
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
        }
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
    def study(self) -> Study:
        """Optuna's study, for figures."""
        return self._study

    def results(self) -> list[Result]:
        """Returns the trials that have ended by themselves, sorted by number."""
        trials = [trial for trial in self._counted() if trial.state.is_finished()]
        return sorted(map(self._result, trials), key=lambda result: result.number)

    def ask(self) -> Trial:
        """Begins a trial, whose values depend on the seed, its number and the trials that have ended."""
        import numpy as np
        from optuna.samplers import TPESampler

        taken = {trial.user_attrs.get(NUMBER) for trial in self._counted()}
        number = next(number for number in itertools.count() if number not in taken)
        seed = int(np.random.SeedSequence([self.identity.seed, number]).generate_state(1)[0])
        self._study.sampler = TPESampler(seed=seed)
        trial = self._study.ask({dimension.key: _distribution(dimension) for dimension in self.space})
        trial.set_user_attr(NUMBER, number)
        return trial

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

        left = [trial for trial in self._study.get_trials(deepcopy=False) if not trial.state.is_finished()]
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


def database(experiment: str) -> Path:
    """Returns the file with an experiment's studies."""
    return project_folder() / "mlruns" / "sweeps" / f"{experiment}.db"


@contextmanager
def alone(experiment: str) -> Iterator[None]:
    """Holds the lock of an experiment's sweeps; raises SweepError if another process has it."""
    from filelock import FileLock, Timeout

    file = database(experiment)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(file.with_suffix(".lock"), timeout=0):
            yield
    except Timeout:
        raise SweepError(
            f"another sweep of {experiment} is at work in this folder; wait until it has ended "
            "(--workers runs several trials at a time)"
        ) from None


def last_identity(experiment: str) -> Identity | None:
    """Returns the identity of the sweep that was used last; None if there is none."""
    file = database(experiment)
    if not file.exists():
        return None
    with _readable(file):
        attributes = [study.user_attrs for study in _storage(file).get_all_studies() if IDENTITY in study.user_attrs]
    latest = max(attributes, key=lambda found: found[USED], default=None)
    return Identity(**latest[IDENTITY]) if latest else None


def open_sweep(identity: Identity) -> Sweep:
    """Returns the sweep of an identity, with its trials; begins one if there is none.

    Raises:
        DataError: The file is no database of Optuna's.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file = database(identity.experiment)
    file.parent.mkdir(parents=True, exist_ok=True)
    with _readable(file):
        study = optuna.create_study(
            storage=_storage(file),
            study_name=identity.name,
            direction="maximize" if METRICS[identity.metric].better == "higher" else "minimize",
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        study.set_user_attr(IDENTITY, asdict(identity))
        study.set_user_attr(USED, time.time())
    return Sweep(study, identity)


def _storage(file: Path) -> RDBStorage:
    from optuna.storages import RDBStorage

    return RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": 60}})


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    from sqlalchemy.exc import DatabaseError

    try:
        yield
    except DatabaseError as error:
        raise DataError(
            f"{file} cannot be used: {error.orig}; if it is damaged, delete it, and the sweep begins anew"
        ) from error
