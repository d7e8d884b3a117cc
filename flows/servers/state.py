"""What one `trackway up` started: where it listens, whether it answers."""

from __future__ import annotations

import json
import time
import xmlrpc.client
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import requests

from flows.executors import answers
from flows.servers import access
from tasks.params import Params
from tasks.tracking.address import address
from tasks.workspace.environment import PASSWORD, SERVERS

FOLDER = Path(".servers")
STATE = FOLDER / "servers.json"
PREFECT_PORT, MLFLOW_PORT = 4200, 5000
DEPLOYMENTS = ["pipeline", "retrain"]
SECONDS_UNTIL_SILENT = 60  # seconds without such a question after which the serving process does not answer


@dataclass(frozen=True)
class Servers:
    """What one `trackway up` started; kept in .servers/servers.json."""

    mark: str
    socket: str  # supervisord's; outside the project, for a socket's path may have 107 bytes only
    prefect_port: int
    mlflow_port: int
    elsewhere: str | None = None  # the address of the MLflow server, if it is none of ours
    host: str = access.LOCAL  # where they listen
    warm: bool = False  # whether there is a warm process for stages

    @property
    def addresses(self) -> dict[str, str]:
        """Server → its address."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        host = f"[{host}]" if ":" in host else host
        return {
            "prefect": f"http://{host}:{self.prefect_port}",
            "mlflow": self.elsewhere or f"http://{host}:{self.mlflow_port}",
        }

    @property
    def ours(self) -> list[str]:
        """What `up` starts, watches and stops, in the order in which it starts."""
        return ["prefect", *([] if self.elsewhere else ["mlflow"]), "serve", *(["warm"] if self.warm else [])]

    @property
    def api(self) -> str:
        return f"{self.addresses['prefect']}/api"

    @cached_property
    def password(self) -> str | None:
        """What `up` found in the environment; the supervisor, a process of the same user, still has it there."""
        environment = psutil.Process(self.supervisor.getPID()).environ()
        return environment.get(PASSWORD) or None

    def ask_prefect(self, path: str, body: dict[str, Any], timeout: float = 10) -> Any:
        """POST to Prefect's API. Raises requests.RequestException."""
        auth = (access.USER, self.password) if self.password else None
        answer = requests.post(f"{self.api}/{path}", json=body, auth=auth, timeout=timeout)
        answer.raise_for_status()
        return answer.json()

    def answering(self, name: str) -> bool:
        try:
            if name == "serve":
                return self._serving()
            if name == "warm":
                return self.warm and answers()
            address = self.api if name == "prefect" else self.addresses[name]
            return requests.get(f"{address}/health", timeout=2).ok
        except (requests.RequestException, xmlrpc.client.Fault):
            return False

    def _serving(self) -> bool:
        """Whether the serving process has asked for runs to start lately; it listens on no port."""
        found = self.ask_prefect("deployments/filter", {"deployments": {"name": {"any_": DEPLOYMENTS}}}, timeout=2)
        asked = [datetime.fromisoformat(entry["last_polled"]).timestamp() for entry in found if entry["last_polled"]]
        since = max(self.supervisor.getProcessInfo("serve")["start"], time.time() - SECONDS_UNTIL_SILENT)
        return len(asked) == len(DEPLOYMENTS) and min(asked) > since

    def states(self) -> dict[str, str]:
        """Process → RUNNING, STARTING, BACKOFF (it crashed and is started again), STOPPED, EXITED or FATAL."""
        return {entry["name"]: entry["statename"] for entry in self.supervisor.getAllProcessInfo()}

    @property
    def supervisor(self) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        return xmlrpc.client.ServerProxy("http://localhost", transport).supervisor

    def processes(self, below: Path) -> list[psutil.Process]:
        """Every process of this `up` that works in or below a folder, also the flow runs and stages that it started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(SERVERS) == self.mark and Path(process.cwd()).is_relative_to(below):
                    found.append(process)
        return found


def last() -> Servers | None:
    """What the last `up` in this folder started, whether it still runs or not."""
    if not STATE.is_file():
        return None
    known = {field.name for field in fields(Servers)}  # another version may have written more
    return Servers(**{key: value for key, value in json.loads(STATE.read_bytes()).items() if key in known})


def running() -> Servers | None:
    """The servers of this folder, if their supervisor runs."""
    servers = last()
    with suppress(OSError, xmlrpc.client.Error, psutil.Error):
        if servers and Path(psutil.Process(servers.supervisor.getPID()).cwd()) == Path.cwd():
            return servers
    return None


def mlflow_address(params: Params) -> str:
    """Of the MLflow server that shows this folder's runs: the one that runs, or the one that would."""
    if params.tracking and (page := address(params.tracking).page):
        return page
    servers = running()
    return servers.addresses["mlflow"] if servers else f"http://{access.LOCAL}:{MLFLOW_PORT}"


def log_file(name: str) -> Path:
    return FOLDER / f"{name}.log"
