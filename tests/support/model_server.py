"""A server that answers with a registered model: `trackway serve`, or another one."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import requests

from tests.support.project import TRACKWAY, Project, free_port, wait_until


@contextmanager
def serving(project: Project, model: str) -> Iterator[str]:
    """`trackway serve` in a project; its address. Ctrl-C ends it without an error."""
    port = free_port()
    with answering(project, port, *TRACKWAY, "serve", model, "--port", str(port)) as (process, address):
        yield address
        process.send_signal(signal.SIGINT)
        shown = process.communicate(timeout=30)[0]
        assert process.returncode == 0, shown
        assert "Traceback" not in shown
        assert f"at {address}; Ctrl-C ends it" in shown


@contextmanager
def answering(
    project: Project, port: int, *command: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command that serves at a port of this machine; the process, and its address once it answers."""
    address = f"http://127.0.0.1:{port}"

    def is_there() -> bool:
        assert process.poll() is None, process.communicate()[0]
        try:
            return requests.get(f"{address}/ping", timeout=5).ok
        except requests.RequestException:
            return False

    with project.start(*command, **environment) as process:
        try:
            wait_until(is_there, 240)
            yield process, address
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # `mlflow models serve` starts another process


def evaluated(project: Project, experiment: str) -> list[str]:
    """What the evaluate stage predicted for each sample of the test part."""
    with (project.folder / f"plots/predictions/{experiment}.csv").open(newline="") as stream:
        return [row["predicted"] for row in csv.DictReader(stream)]
