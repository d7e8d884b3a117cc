"""`trackway up`, `down`, `status`: Prefect's server, MLflow's and the process that serves the deployments.

supervisord (supervisor.readthedocs.io) starts them, restarts what crashes and keeps their logs, all below .servers/.
Everything listens on 127.0.0.1.
"""

from __future__ import annotations

import configparser
import io
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import requests

from flows.afresh import MARK
from learn.errors import ServerError
from learn.params import Params
from tasks.stage import write_atomically
from tasks.tracking import prepare_store

FOLDER = Path(".servers")
STATE = FOLDER / "servers.json"
CONFIG = FOLDER / "supervisord.conf"
HOST = "127.0.0.1"
PREFECT_PORT, MLFLOW_PORT, SERVE_PORT = 4200, 5000, 4201
PATIENCE = 120  # seconds until all three answer; the first start makes Prefect's and MLflow's tables


@dataclass(frozen=True)
class Servers:
    """What one `trackway up` started; kept in .servers/servers.json."""

    mark: str
    socket: str  # supervisord's; outside the project, for a socket's path may have 107 bytes only
    prefect_port: int
    mlflow_port: int
    serve_port: int

    @property
    def addresses(self) -> dict[str, str]:
        """Process → its address, in the order in which they start."""
        ports = {"prefect": self.prefect_port, "mlflow": self.mlflow_port, "serve": self.serve_port}
        return {name: f"http://{HOST}:{port}" for name, port in ports.items()}

    @property
    def api(self) -> str:
        return f"{self.addresses['prefect']}/api"

    @property
    def health(self) -> dict[str, str]:
        """Process → what answers 200 when it is well."""
        at = self.addresses
        return {
            "prefect": f"{self.api}/health",
            "mlflow": f"{at['mlflow']}/health",
            "serve": f"{at['serve']}/health",
        }

    def answering(self, name: str) -> bool:
        try:
            return requests.get(self.health[name], timeout=2).ok
        except requests.RequestException:
            return False

    def states(self) -> dict[str, str]:
        """Process → RUNNING, STARTING, BACKOFF (it crashed and is started again), STOPPED, EXITED or FATAL."""
        return {entry["name"]: entry["statename"] for entry in self.supervisor.getAllProcessInfo()}

    @property
    def supervisor(self) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        return xmlrpc.client.ServerProxy(f"http://{HOST}", transport).supervisor

    def processes(self, below: Path) -> list[psutil.Process]:
        """Every process of this `up` that works in or below a folder, also the flow runs and stages that it started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and Path(process.cwd()).is_relative_to(below):
                    found.append(process)
        return found


def last() -> Servers | None:
    """What the last `up` in this folder started, whether it still runs or not."""
    return Servers(**json.loads(STATE.read_bytes())) if STATE.is_file() else None


def running() -> Servers | None:
    """The servers of this folder, if their supervisor runs."""
    servers = last()
    with suppress(OSError, xmlrpc.client.Error, psutil.Error):
        if servers and Path(psutil.Process(servers.supervisor.getPID()).cwd()) == Path.cwd():
            return servers
    return None


def mlflow_address() -> str:
    """Of this folder's MLflow server: the one that runs, or the one that would."""
    servers = running()
    return servers.addresses["mlflow"] if servers else f"http://{HOST}:{MLFLOW_PORT}"


def up(params: Params, *, prefect_port: int, mlflow_port: int, serve_port: int) -> Servers:
    """Starts the three and returns when they answer. Raises ServerError, and then nothing is left running."""
    down()  # what may be left where a supervisor was killed
    for name, port in (("prefect", prefect_port), ("mlflow", mlflow_port), ("serve", serve_port)):
        _check_free(name, port)
    if params.tracking:
        prepare_store(params.tracking)
    home = Path(tempfile.mkdtemp(prefix="trackway-"))
    servers = Servers(secrets.token_hex(8), str(home / "supervisor.sock"), prefect_port, mlflow_port, serve_port)
    FOLDER.mkdir(exist_ok=True)
    write_atomically(STATE, json.dumps(asdict(servers)).encode())
    write_atomically(CONFIG, _config(servers, params).encode())
    command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(CONFIG)]
    subprocess.run(command, env=os.environ | {MARK: servers.mark}, check=True)
    try:
        _wait(servers)
    except BaseException:
        down()
        raise
    _point_prefect_at(servers.api)
    return servers


def _check_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServerError(
                f"port {port} for {name} cannot be used ({error.strerror}); choose another with --{name}-port"
            ) from None


def _wait(servers: Servers) -> None:
    deadline = time.monotonic() + PATIENCE
    for name in servers.addresses:
        while not servers.answering(name):
            state = servers.states()[name]
            if state == "FATAL" or time.monotonic() > deadline:
                lines = log_file(name).read_text(errors="replace").splitlines()[-20:]
                raise ServerError(
                    "\n".join([f"{name} does not answer ({state}); its log {log_file(name)} ends:", *lines])
                )
            time.sleep(0.3)


def down() -> bool:
    """Stops what `up` started in this folder, the serving process and its flow runs first. False: nothing ran."""
    servers = last()
    if not servers:
        return False
    here = Path.cwd()
    left = servers.processes(here)
    if running():
        _cancel_runs(servers)
        for name in reversed(servers.addresses):
            with suppress(xmlrpc.client.Fault):  # it does not run
                servers.supervisor.stopProcess(name, name == "serve")
        servers.supervisor.shutdown()
        _, left = psutil.wait_procs(left, timeout=10)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, left = psutil.wait_procs(servers.processes(here), timeout=10)
    if not servers.processes(Path("/")):  # or this is a copy, and the socket is the original's
        shutil.rmtree(Path(servers.socket).parent, ignore_errors=True)
    STATE.unlink()
    _point_prefect_at(None)
    return True


def _cancel_runs(servers: Servers) -> None:
    """The runs of the deployments end as Cancelled, not in the middle of something."""
    under_way = {
        "flow_runs": {
            "state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}},
            "deployment_id": {"is_null_": False},
        }
    }

    def runs() -> list[dict[str, Any]]:
        answer = requests.post(f"{servers.api}/flow_runs/filter", json=under_way, timeout=10)
        answer.raise_for_status()
        return answer.json()

    with suppress(requests.RequestException):  # no server, no runs
        for run in runs():
            requests.post(
                f"{servers.api}/flow_runs/{run['id']}/set_state", json={"state": {"type": "CANCELLING"}}, timeout=10
            )
        deadline = time.monotonic() + 20
        while runs() and time.monotonic() < deadline:
            time.sleep(0.3)


def _point_prefect_at(api: str | None) -> None:
    """Which server Prefect's commands in this folder ask: a profile below .prefect/. None: each starts its own."""
    from prefect.settings import PREFECT_API_URL, load_profiles, save_profiles

    profiles = load_profiles()
    if api:
        profiles.update_profile("trackway", {PREFECT_API_URL: api})
        profiles.set_active("trackway")
    elif "trackway" in profiles.names:
        profiles.remove_profile("trackway")
        profiles.set_active("ephemeral")
    save_profiles(profiles)


def log_file(name: str) -> Path:
    return FOLDER / f"{name}.log"


def _config(servers: Servers, params: Params) -> str:
    python = shlex.quote(sys.executable)
    tracking = shlex.quote(params.tracking or "sqlite:///mlruns/mlflow.db")
    commands = {
        "prefect": f"{python} -m prefect server start --host {HOST} --port {servers.prefect_port}",
        "mlflow": f"{python} -m flows.afresh -m mlflow server --host {HOST} --port {servers.mlflow_port} --workers 1 "
        f"--backend-store-uri {tracking}",
        "serve": f"{python} -m flows.deployments",
    }
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes, for LLM judges
        "PREFECT_API_URL": servers.api,
        "PREFECT_RUNNER_POLL_FREQUENCY": "3",
        "PREFECT_RUNNER_SERVER_ENABLE": "true",
        "PREFECT_RUNNER_SERVER_HOST": HOST,
        "PREFECT_RUNNER_SERVER_PORT": str(servers.serve_port),
        "PREFECT_RUNNER_SERVER_MISSED_POLLS_TOLERANCE": "20",
    }
    config: dict[str, dict[str, Any]] = {
        "supervisord": {"logfile": FOLDER / "supervisord.log", "pidfile": FOLDER / "supervisord.pid", "silent": "true"},
        "unix_http_server": {"file": servers.socket, "chmod": "0700"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
    }
    for priority, (name, command) in enumerate(commands.items()):
        config[f"program:{name}"] = {
            "command": command,
            "environment": ",".join(f'{key}="{value}"' for key, value in environment.items()),
            "priority": str(priority),
            "autorestart": "true",
            "startsecs": "3",
            "startretries": "5",
            "stopasgroup": "true",
            "killasgroup": "true",
            "stopwaitsecs": "20",
            "redirect_stderr": "true",
            "stdout_logfile": log_file(name),
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": "3",
        }
    parser = configparser.RawConfigParser()
    parser.read_dict({
        section: {key: str(value).replace("%", "%%") for key, value in entries.items()}
        for section, entries in config.items()
    })  # fmt: skip
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()
