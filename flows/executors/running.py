"""What an executor is: where a stage's process runs, and how its flow follows and ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from learn.errors import TrackwayError
from tasks.workspace.outcome import Outcome


class NodeLost(TrackwayError):
    """The node on which a stage ran is gone; another node can run it."""


class ClusterLost(TrackwayError):
    """The cluster does not answer any more."""


class Running(Protocol):
    """A stage that runs."""

    @property
    def waits(self) -> bool:
        """Whether it waits at this moment for another stage, or for room; this time is not counted."""

    def lines(self) -> Iterator[str]:
        """Yields what it prints until it ends."""

    def wait(self) -> tuple[int, Outcome | None]:
        """Waits for its end.

        Returns:
            The exit code of DVC, and what the stage left for its flow; None if it did not run, or was killed.

        Raises:
            NodeLost: Its node is gone.
            ClusterLost: The cluster is gone.
        """

    def end(self) -> None:
        """Ends it and all processes below it; returns once they are gone."""


class Executor(Protocol):
    """Runs stages."""

    def start(self, stage: str, force: bool) -> AbstractContextManager[Running]:
        """Starts `dvc repro --single-item STAGE`.

        Args:
            stage: Name of the stage, such as train@digits-mlp.
            force: Run it even if DVC considers it up to date.
        """
