"""Runs stages on this machine, in this folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from prefect import runtime
from prefect.utilities.urls import url_for

from tasks.workspace.environment import FLOW_RUN, FLOW_RUN_URL, LIFELINE, OUTCOME, WAITING
from tasks.workspace.outcome import Outcome, told

SECONDS_TO_END = 5.0  # time that a stage has to end after SIGTERM; then it is killed


@dataclass(frozen=True)
class LocalProcess:
    """DVC with a stage below it, in a session of its own, so that Ctrl-C in the terminal reaches only the flow."""

    process: subprocess.Popen[str]
    folder: Path  # has the stage's outcome, and a file that exists while the stage waits for another one

    @property
    def waits(self) -> bool:
        """Whether the stage waits for another one."""
        return (self.folder / "waiting").exists()

    def lines(self) -> Iterator[str]:
        """Yields what DVC and the stage print."""
        assert self.process.stdout
        yield from self.process.stdout

    def wait(self) -> tuple[int, Outcome | None]:
        """Returns the exit code of DVC and the stage's outcome."""
        return self.process.wait(), told(self.folder / "outcome.json")

    def end(self) -> None:
        """Ends all processes by SIGTERM, and kills those that are left after SECONDS_TO_END."""
        end_family(self.process.pid)


class Local:
    """Runs stages on this machine, in this folder."""

    @contextmanager
    def start(self, stage: str, force: bool) -> Iterator[LocalProcess]:
        """Starts DVC with a stage."""
        options = ["--quiet", "--single-item", *(["--force"] if force else [])]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            environment = (
                os.environ
                | of_flow()
                | {
                    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # dvc.yaml calls `python`
                    "PYTHONUNBUFFERED": "1",
                    LIFELINE: "stdin",
                    WAITING: str(folder / "waiting"),
                    OUTCOME: str(folder / "outcome.json"),
                }
            )
            with subprocess.Popen(
                [sys.executable, "-m", "tasks.warm", "dvc", "--wait-for-lock", "repro", *options, stage],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
                errors="replace",
                start_new_session=True,
            ) as process:
                yield LocalProcess(process, folder)


def of_flow() -> dict[str, str]:
    """Returns the environment variables that tell a stage its flow run; a temporary server has no page."""
    return {FLOW_RUN: str(runtime.flow_run.id), FLOW_RUN_URL: url_for("flow-run", runtime.flow_run.id) or ""}


def end_family(pid: int) -> None:
    """Ends a process and all below it by SIGTERM, and kills those that are left after SECONDS_TO_END."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        _, family = psutil.wait_procs(family, timeout=SECONDS_TO_END)
