"""The section `flow` of params.yaml: what only the Prefect flows need to know."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tasks.params.section import Section

Seconds = Annotated[int, Field(ge=1)]


class Timeouts(Section):
    """Seconds that a stage of a flow may take; null is no limit."""

    transform: Seconds | None
    train: Seconds | None


class Schedule(Section):
    """When a deployment starts by itself: at the times of a cron line, or every so many seconds."""

    deployment: Literal["pipeline", "retrain"]
    cron: str | None = None
    interval: Seconds | None = None
    timezone: str = "UTC"
    parameters: dict[str, Any] = Field(default_factory=dict)
    paused: bool = False

    @model_validator(mode="after")
    def _agrees(self) -> Schedule:
        if (self.cron is None) == (self.interval is None):
            raise ValueError("it must have either cron or interval")
        allowed = {"pipeline": {"targets", "workers", "force"}, "retrain": {"dataset", "workers"}}[self.deployment]
        if unknown := set(self.parameters) - allowed:
            raise ValueError(
                f"parameters.{min(unknown)} is not a parameter of {self.deployment}; "
                f"it must be one of {', '.join(sorted(allowed))}"
            )
        if self.deployment == "retrain" and "dataset" not in self.parameters:
            raise ValueError("parameters.dataset is missing: retrain must be told which")
        return self


class Flow(Section):
    """What the Prefect flows need to know; no stage depends on it."""

    timeouts: Timeouts
    notify: list[str]  # Apprise addresses and webhooks; $NAME is taken from the environment
    schedules: list[Schedule]
