"""A real `mlflow server`, for tests, that can be stopped and started again, and a door in front of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import SHUT_RDWR, create_connection, create_server, socket

import requests


@dataclass
class MlflowServer:
    """A tracking server on a SQLite store of its own."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                    "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
                    "--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1",
                ],
                cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while not self.answers():
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.address}/health", timeout=2).ok
        except requests.RequestException:
            return False

    def stop(self) -> None:
        """Kills it with its workers, as a crash would."""
        if self.process:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@dataclass
class Door:
    """Passes connections on to a port while it is open; closed, it refuses them and cuts those that are under way.

    An outage without the seconds that a server takes to start again.
    """

    to: int
    port: int = 0
    _listening: socket | None = None
    _through: list[socket] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        self._listening = create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._let_in, args=[self._listening], daemon=True).start()

    def close(self) -> None:
        listening, self._listening = self._listening, None
        for each in [listening, *self._through]:
            if each:
                with suppress(OSError):
                    each.shutdown(SHUT_RDWR)
                each.close()
        self._through.clear()

    def _let_in(self, listening: socket) -> None:
        with suppress(OSError):  # it was closed
            while True:
                outside, _ = listening.accept()
                inside = create_connection(("127.0.0.1", self.to))
                self._through += [outside, inside]
                for ends in ((outside, inside), (inside, outside)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    @staticmethod
    def _pass(source: socket, target: socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(SHUT_RDWR)
