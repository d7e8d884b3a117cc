"""Decides which experiments cannot be champion, even if there is no other: they are constant, too large or too slow."""

from __future__ import annotations

from dataclasses import dataclass

from learn.comparison.defaults import MAX_LATENCY_MS, MAX_PARAMETERS
from learn.comparison.ranking import is_number


@dataclass(frozen=True)
class Limits:
    """What a model may cost at most, to be champion: `champion` of a dataset in params.yaml; None for any cost."""

    max_parameters: int | None = MAX_PARAMETERS
    max_latency_ms: float | None = MAX_LATENCY_MS  # for one sample


@dataclass(frozen=True)
class Costs:
    """What a model costs."""

    parameters: int = 0
    latency: float | None = None  # milliseconds for one sample; None if it is not known
    device: str = ""  # where that was measured


def why_never_champion(
    diagnosis: dict[str, str],
    split: str,
    metric: str,
    value: float | None,
    costs: Costs,
    limits: Limits,
) -> str | None:
    """Returns why an experiment cannot be champion, even if it is the only one; None if it can.

    Args:
        diagnosis: The experiment's diagnosis, with `kind` and `summary`. A model that predicts the same class for every
            sample is kept out, since its metric only says how common that class is.
        split: The split that decides.
        metric: The metric that decides.
        value: The measured value of that metric.
        costs: What the model costs.
        limits: What it may cost.
    """
    if diagnosis["kind"] == "constant":
        return f"it says {diagnosis['summary']}"
    return _too_costly(costs, limits) or (None if is_number(value) else f"its {split} {metric} is not a number")


def _too_costly(costs: Costs, limits: Limits) -> str | None:
    """Returns which limit a model exceeds, and by how much; None if it exceeds none."""
    most, slowest = limits.max_parameters, limits.max_latency_ms
    if most is not None and costs.parameters > most:
        return f"it has {costs.parameters:,} parameters, more than champion.max_parameters allows ({most:,})"
    if slowest is None:
        return None
    if costs.latency is None:
        return "MLflow does not know its latency, which champion.max_latency_ms limits; next: trackway relog"
    if costs.latency > slowest:
        where = f" ({costs.device})" if costs.device else ""
        return (
            f"it takes {costs.latency:.4g} ms for one sample{where}, longer than champion.max_latency_ms allows "
            f"({slowest:g} ms)"
        )
    return None
