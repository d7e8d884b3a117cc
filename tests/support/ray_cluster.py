"""A real Ray cluster of several nodes in this machine, each with a folder of its own, for tests."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flows.executors.warm import UNTIL_IDLE
from tasks.workspace.environment import NODE_FOLDER, WARM
from tests.support.pages import blocks
from tests.support.project import free_port, wait_until

HEAD, NODE, RUN = blocks("sh", "docs/cluster.md")
HOST = "127.0.0.2"  # loopback, too; Ray replaces 127.0.0.1 by another address of the machine


NO_NICENESS = {"RAY_worker_niceness": "0"}  # by default they wait for all other tests


@dataclass
class RayNodes:
    folder: Path
    of_ray: Path  # has a folder of Ray for each node: a node removes and unpacks the code that another one may import
    port: int = field(default_factory=free_port)
    client_port: int = field(default_factory=free_port)
    token: str = field(default_factory=lambda: secrets.token_hex(24))
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"ray://127.0.0.1:{self.client_port}"

    @property
    def environment(self) -> dict[str, str]:
        """With what docs/cluster.md says, for nodes and for people: only who has the token is let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def start(self, command: str, *options: str) -> int:
        """Starts a node, and returns its number once it is there; 0 is the head, which runs no stages."""
        number = len(self.processes)
        where = ["--block", "--node-ip-address", HOST, "--object-store-memory", "100000000", "--disable-usage-stats"]
        where += ["--temp-dir", str(self.of_ray / str(number))]
        log = self.folder / f"{number}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*shlex.split(command), *options, *where],
                env=os.environ | self.environment | {NODE_FOLDER: str(self.work(number)), WARM: "", **NO_NICENESS},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.processes.append(process)

        def started() -> bool:
            assert process.poll() is None, log.read_text()
            return "Ray runtime started" in log.read_text()

        wait_until(started, 120)
        return number

    def head(self) -> int:
        command = HEAD.replace("10001", str(self.client_port))
        return self.start(command, "--port", str(self.port), "--include-dashboard", "false")

    def add(self) -> int:
        return self.start(NODE.replace("HEAD:6379", f"{HOST}:{self.port}"), "--num-cpus", "1")

    def kill(self, number: int) -> None:
        """As if its machine were switched off."""
        process = self.processes[number]
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for warm in warm_on(self.work(number)):
            warm.kill()

    def work(self, number: int) -> Path:
        """The folder of a node."""
        return self.folder / f"node-{number}"


@contextmanager
def ray_nodes(folder: Path, count: int) -> Iterator[RayNodes]:
    """A head, and so many nodes with one CPU each."""
    folder.mkdir(parents=True)
    nodes = RayNodes(folder, Path(tempfile.mkdtemp(prefix="ray-")))
    try:
        nodes.head()
        for _ in range(count):
            nodes.add()
        yield nodes
    finally:
        for process in nodes.processes[::-1]:
            process.terminate()
        for process in nodes.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
        for number in range(len(nodes.processes)):
            nodes.kill(number)
        shutil.rmtree(nodes.of_ray, ignore_errors=True)


def warm_on(folder: Path) -> list[psutil.Process]:
    """The warm processes of nodes whose folder is this one or below it; they outlive flows."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if UNTIL_IDLE in process.cmdline() and Path(process.environ()[NODE_FOLDER]).is_relative_to(folder):
                found[process.pid] = process
    return [process for process in found.values() if process.ppid() not in found]  # the others are its forks


def stages_on(folder: Path, word: str) -> list[psutil.Process]:
    """The processes in a node's work folders that have the word in their command line."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if word in " ".join(process.cmdline()) and Path(process.cwd()).is_relative_to(folder):
                found.append(process)
    return found
