"""The servers that one `trackway up` started: where they listen, and whether they answer."""

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
SECONDS_UNTIL_SILENT = 60  # if the serving process has not asked for runs for this time, it counts as not answering


@dataclass(frozen=True)
class Servers:
    """The servers that one `trackway up` started; kept in .servers/servers.json."""

    mark: str  # random text in the environment of all their processes
    socket: str  # supervisord's socket; outside the project, because its path may have only 107 bytes
    prefect_port: int
    mlflow_port: int
    elsewhere: str | None = None  # address of an MLflow server that `up` did not start; None if it starts one
    host: str = access.LOCAL  # the address where they listen
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
        """Names of what `up` starts, watches and stops, in the order in which they start."""
        return ["prefect", *([] if self.elsewhere else ["mlflow"]), "serve", *(["warm"] if self.warm else [])]

    @property
    def api(self) -> str:
        """Address of the API of Prefect's server."""
        return f"{self.addresses['prefect']}/api"

    @cached_property
    def password(self) -> str | None:
        """The password that `up` found in its environment, read from the supervisor's; None if there was none."""
        environment = psutil.Process(self.supervisor.getPID()).environ()
        return environment.get(PASSWORD) or None

    def ask_prefect(self, path: str, body: dict[str, Any], timeout: float = 10) -> Any:
        """Sends a POST request to Prefect's API, and returns the answer.

        Args:
            path: Path below the API's address.
            body: Content of the request, sent as JSON.
            timeout: Seconds to wait for the answer.

        Raises:
            requests.RequestException: The server does not answer, or refuses.
        """
        auth = (access.USER, self.password) if self.password else None
        answer = requests.post(f"{self.api}/{path}", json=body, auth=auth, timeout=timeout)
        answer.raise_for_status()
        return answer.json()

    def answering(self, name: str) -> bool:
        """Returns whether a server, one of `ours` or `mlflow` elsewhere, answers."""
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
        """Returns whether the serving process, which listens on no port, has lately asked for runs to start."""
        found = self.ask_prefect("deployments/filter", {"deployments": {"name": {"any_": DEPLOYMENTS}}}, timeout=2)
        asked = [datetime.fromisoformat(entry["last_polled"]).timestamp() for entry in found if entry["last_polled"]]
        since = max(self.supervisor.getProcessInfo("serve")["start"], time.time() - SECONDS_UNTIL_SILENT)
        return len(asked) == len(DEPLOYMENTS) and min(asked) > since

    def states(self) -> dict[str, str]:
        """Returns process → RUNNING, STARTING, BACKOFF (crashed, will be restarted), STOPPED, EXITED or FATAL."""
        return {entry["name"]: entry["statename"] for entry in self.supervisor.getAllProcessInfo()}

    @property
    def supervisor(self) -> Any:
        """A client of supervisord's XML-RPC interface."""
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        return xmlrpc.client.ServerProxy("http://localhost", transport).supervisor

    def processes(self, below: Path) -> list[psutil.Process]:
        """Returns all processes of this `up` that work in or below a folder, with the flow runs that it started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(SERVERS) == self.mark and Path(process.cwd()).is_relative_to(below):
                    found.append(process)
        return found


def last() -> Servers | None:
    """Returns the servers of the last `up` in this folder, even if they no longer run; None after `down`."""
    if not STATE.is_file():
        return None
    known = {field.name for field in fields(Servers)}  # another version may have written more
    return Servers(**{key: value for key, value in json.loads(STATE.read_bytes()).items() if key in known})


def running() -> Servers | None:
    """Returns the servers of this folder if their supervisor runs, else None."""
    servers = last()
    with suppress(OSError, xmlrpc.client.Error, psutil.Error):
        if servers and Path(psutil.Process(servers.supervisor.getPID()).cwd()) == Path.cwd():
            return servers
    return None


def mlflow_address(params: Params) -> str:
    """Returns the address of the MLflow server that shows this folder's runs, even if it does not run now."""
    if params.tracking and (page := address(params.tracking).page):
        return page
    servers = running()
    return servers.addresses["mlflow"] if servers else f"http://{access.LOCAL}:{MLFLOW_PORT}"


def log_file(name: str) -> Path:
    """Returns the log of a server."""
    return FOLDER / f"{name}.log"
