"""The section `flow` of params.yaml: what only the Prefect flows need to know."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tasks.params.section import Section

RAY_ADDRESS = r"^ray://[^/\s:]+:[0-9]+$"
MEMORY, ACCELERATOR = r"^[0-9]+(MiB|GiB)$", r"^[A-Za-z0-9-]+$"
ALLOWED = {  # pattern → what fits it, in words
    RAY_ADDRESS: "the address of a Ray cluster, such as ray://HOST:10001",
    MEMORY: "a whole number with MiB or GiB, such as 8GiB",
    ACCELERATOR: "Ray's name of a kind of GPU, such as A100",
}
Seconds = Annotated[int, Field(ge=1)]


class TimeoutsConfig(Section):
    """Seconds that a stage of a flow may take; null for no limit."""

    transform: Seconds | None
    """Seconds that a transform stage may take before it is stopped; null for no limit."""
    train: Seconds | None
    """Seconds that a training may take before it is stopped, without the time it waits for a GPU; null for no limit."""


class ScheduleConfig(Section):
    """When a deployment starts by itself: at the times of a cron line, or at a fixed interval."""

    deployment: Literal["pipeline", "retrain"]
    """What is started: `pipeline` brings everything (or its targets) up to date, `retrain` trains one dataset's
    experiments again."""
    cron: str | None = None
    """A cron line, such as `0 6 * * *` for every day at six. Give either `cron` or `interval`."""
    interval: Seconds | None = None
    """Seconds from one start to the next. Give either `cron` or `interval`."""
    timezone: str = "UTC"
    """Time zone of the cron line, such as `Europe/Berlin`."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the deployment: `targets`, `workers`, `force` and `on` for `pipeline`; `dataset` (required) and
    `workers` for `retrain`."""
    paused: bool = False
    """True: nothing starts by itself until the schedule is switched on, here or on Prefect's page."""

    @model_validator(mode="after")
    def _agrees(self) -> ScheduleConfig:
        if (self.cron is None) == (self.interval is None):
            raise ValueError("it must have either cron or interval")
        allowed = {"pipeline": {"targets", "workers", "force", "on"}, "retrain": {"dataset", "workers"}}[
            self.deployment
        ]
        if unknown := set(self.parameters) - allowed:
            raise ValueError(
                f"parameters.{min(unknown)} is not a parameter of {self.deployment}; "
                f"it must be one of {', '.join(sorted(allowed))}"
            )
        if self.deployment == "retrain" and "dataset" not in self.parameters:
            raise ValueError("parameters.dataset is missing: retrain must be told which")
        return self


class ResourcesConfig(Section):
    """What a stage needs of a node of a cluster. A key that is left out is that of the stage's kind, or the default."""

    cpus: Annotated[float, Field(gt=0)] = 1
    """Number of CPUs; the default is `threads`."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """Number of GPUs, or a fraction of one, such as 0.5. Without it a stage sees no GPU."""
    memory: Annotated[str, Field(pattern=MEMORY)] | None = None
    """Main memory, such as `8GiB`; null for no demand."""
    accelerator: Annotated[str, Field(pattern=ACCELERATOR)] | None = None
    """Ray's name of a kind of GPU, such as `A100`; null for any."""

    @field_validator("gpus")
    @classmethod
    def _whole_above_one(cls, gpus: float) -> float:
        if gpus > 1 and gpus % 1:
            raise ValueError("it must be a whole number, or less than 1")
        return gpus


class FlowConfig(Section):
    """What the Prefect flows need to know; no stage depends on it."""

    timeouts: TimeoutsConfig
    """How long stages may take."""
    notify: list[str]
    """Who is told of failures and of decisions about new models: webhooks, which get JSON, and Apprise addresses
    (Slack, mail, ...). `$NAME` is taken from the environment."""
    schedules: list[ScheduleConfig]
    """When deployments start by themselves while `trackway up` runs."""
    executor: Literal["local", "ray"] = "local"
    """Where stages run: on this machine, or on the nodes of a Ray cluster (docs/cluster.md)."""
    address: Annotated[str, Field(pattern=RAY_ADDRESS)] | None = None
    """The cluster's address, such as `ray://HOST:10001`."""
    resources: dict[str, ResourcesConfig] = Field(default_factory=dict)
    """What stages need of a node: an entry for a kind of stage (`train`), a dataset or an experiment, or a stage
    (`train@digits-mlp`), which goes before the others."""

    @model_validator(mode="after")
    def _has_address(self) -> FlowConfig:
        if self.executor == "ray" and not self.address:
            raise ValueError("executor: ray needs address, such as ray://HOST:10001")
        return self
