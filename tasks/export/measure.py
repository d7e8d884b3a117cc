"""Measures a registered graph and an exported file side by side: size, speed and a metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.export.check import Outputs, Samples
from tasks.export.formats import Graph

if TYPE_CHECKING:
    from learn.evaluation.intervals import Interval
    from learn.latency import Latency


@dataclass(frozen=True)
class Contender:
    """The registered graph, or a file."""

    name: str
    size: int  # bytes
    graph: Graph
    outputs: Outputs  # for the samples


@dataclass(frozen=True)
class Measured:
    """What was measured of the registered graph, or of a file."""

    name: str
    size: int  # bytes
    latency: Latency
    score: float | None  # the value of `metric_for` on the test part; None without targets
    interval: Interval | None


def metric_for(classes: tuple[str, ...]) -> str:
    """Returns the name of the metric that is shown of a model with these classes; without classes for regression."""
    return "accuracy" if classes else "mae"


def measured(one: Contender, samples: Samples, classes: tuple[str, ...]) -> Measured:
    """Measures the registered graph, or a file.

    Args:
        one: What is measured.
        samples: The samples.
        classes: Names of the classes; empty for regression.
    """
    import torch

    from learn.evaluation.intervals import interval
    from learn.evaluation.metrics import scores
    from learn.latency import BATCH, measure

    latency = measure(one.graph, samples.inputs[torch.arange(BATCH) % len(samples.inputs)])
    if samples.targets is None:
        return Measured(one.name, one.size, latency, None, None)
    metric, predictions = metric_for(classes), one.outputs["prediction"]
    return Measured(
        one.name,
        one.size,
        latency,
        scores(samples.targets, predictions, classes)[metric],
        interval(metric, samples.targets, predictions, classes=len(classes)),
    )
