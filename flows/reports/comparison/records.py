"""What a comparison shows of a dataset and its experiments, as plain records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Role = Literal["champion", "challenger", ""]  # a registered version's alias; "" for none


@dataclass(frozen=True)
class Measured:
    """A metric on a split."""

    value: float
    interval: tuple[float, float] | None = None  # 95 %
    sd: float | None = None  # standard deviation over the seeds; None for one seed


@dataclass(frozen=True)
class Difference:
    """How an experiment's metric differs from the best one's, on the same samples."""

    value: float  # the experiment's metric less the best one's
    interval: tuple[float, float] | None  # 95 %; None if it was not asked for
    p: float  # corrected for being one of several (Holm)
    is_separable: bool  # whether it is more than chance explains


@dataclass(frozen=True)
class Curve:
    """A metric over the epochs: the mean over the seeds, with the lowest and the highest seed if there are several."""

    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Details:
    """What is drawn of an experiment.

    Attributes:
        curves: Name, such as `train/loss`, to curve.
        recall: Class to its recall on the test split; empty for regression.
        support: Class to its number of test samples.
        confusion: Test samples by their true class (rows) and the predicted one (columns); empty for regression.
    """

    curves: dict[str, Curve]
    recall: dict[str, float]
    support: dict[str, int]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Speed:
    """How fast a model predicts."""

    median: float  # milliseconds for one sample
    p95: float | None  # milliseconds; 95 of 100 samples take no longer
    throughput: float | None  # samples per second, in batches of 32
    device: str  # where it was measured


@dataclass(frozen=True)
class Entry:
    """An experiment that was evaluated."""

    name: str
    measured: dict[str, dict[str, Measured]]  # split → metric
    settings: dict[str, Any]  # of params.yaml, by names such as `optimizer.lr`
    seeds: int
    parameters: int
    epochs: int
    diagnosis: str
    megabytes: float | None  # size of the state_dict; None if the file is not there
    seconds: float | None = None  # time of training; None if MLflow does not know it
    device: str | None = None
    speed: Speed | None = None  # None if MLflow does not know it
    role: Role = ""
    decision: str = ""  # what the gate said when it gave the role
    difference: Difference | None = None  # None for the best one, and if they cannot be compared
    details: Details | None = None  # None for those that are not drawn


@dataclass(frozen=True)
class Points:
    """Test samples in the plane, with the class that each model predicts for them."""

    places: np.ndarray  # (N, 2)
    targets: np.ndarray  # (N,)
    answers: dict[str, np.ndarray]  # experiment → (N,)


@dataclass(frozen=True)
class Fits:
    """Test samples of a regression: true values, and what each model predicts."""

    targets: np.ndarray  # (N,)
    answers: dict[str, np.ndarray]  # experiment → (N,)


@dataclass(frozen=True)
class Pictures:
    """Test pictures that at least one model gets wrong, with the class that each model predicts."""

    numbers: tuple[int, ...]  # their places in the test split
    images: tuple[bytes, ...]  # PNG
    targets: np.ndarray  # (N,)
    answers: dict[str, np.ndarray]  # experiment → (N,)


@dataclass(frozen=True)
class Mistake:
    """A test sample for which a model is sure of a wrong answer."""

    number: int  # its place in the test split
    picture: bytes  # PNG; empty if the input is no picture
    values: str  # the input's numbers as text; "" for a picture
    target: int  # its class
    answer: int  # the class that the model predicts
    probability: float  # that the model gives to its answer


@dataclass(frozen=True)
class Changes:
    """What changed since the report before of the same dataset."""

    since: str = ""  # first digits of the commit of that report; "" if it is not known
    commits: tuple[str, ...] = ()  # newest first
    commits_known: bool = True  # whether git has that commit
    data: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    is_first: bool = False  # whether there is no report before


@dataclass(frozen=True)
class Report:
    """A dataset's experiments, best first."""

    dataset: str
    part: str  # the split that decides: validation, or test if there is no validation split
    metric: str  # the metric that decides
    level: float  # p-values above it are explained by chance
    samples: dict[str, int]  # split → number of samples
    classes: tuple[str, ...]  # empty for regression
    entries: tuple[Entry, ...]
    answers: Points | Fits | Pictures | None = None
    remarks: tuple[str, ...] = ()  # what is missing, and what to do about it
    changes: Changes | None = None  # None if nothing is known of earlier reports
    mistakes: dict[str, tuple[Mistake, ...]] = field(default_factory=dict)  # experiment → its most confident ones

    @property
    def drawn(self) -> list[Entry]:
        """The experiments that figures show."""
        return [entry for entry in self.entries if entry.details]
