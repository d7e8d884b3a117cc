"""`trackway up`, `down`, `status`: Prefect's server, MLflow's, the process that serves the deployments, the warm one.

If `tracking` in params.yaml is a tracking server, there is one already: none is started, and links lead there.

supervisord (supervisor.readthedocs.io) starts them, restarts what crashes and keeps their logs, all below .servers/.
Everything listens on 127.0.0.1, or where --host says; access.py says who may use it.
"""

from __future__ import annotations

import configparser
import errno
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
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import requests

from flows import access
from flows.executors import answers
from learn.errors import ServerError
from tasks.address import address
from tasks.params import Params
from tasks.stage import write_atomically
from tasks.tracking import prepare_store
from tasks.warm import own_place, place

FOLDER = Path(".servers")
STATE = FOLDER / "servers.json"
CONFIG = FOLDER / "supervisord.conf"
MARK = "TRACKWAY_SERVERS"  # the environment variable by which the processes of one `up` are known
PREFECT_PORT, MLFLOW_PORT = 4200, 5000
BETWEEN_LINES = 4  # seconds, while something is waited for
PATIENCE = 120  # seconds until all answer; the first start makes Prefect's and MLflow's tables
DEPLOYMENTS = ["pipeline", "retrain"]
POLL = 3  # seconds between two times that the serving process asks Prefect's server what to start
COMMAND = (  # libraries of the `trackway` command, beside those of stages
    "typer rich.table prefect prefect.client.orchestration prefect.flow_engine prefect.task_engine prefect.artifacts "
    "apprise supervisor.xmlrpc"
)
QUIET = 60  # seconds without such a question after which the serving process does not answer


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
        return environment.get(access.PASSWORD) or None

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
        since = max(self.supervisor.getProcessInfo("serve")["start"], time.time() - QUIET)
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
                if process.environ().get(MARK) == self.mark and Path(process.cwd()).is_relative_to(below):
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


def up(params: Params, *, host: str, prefect_port: int, mlflow_port: int) -> Servers:
    """Starts them and returns when they answer. Raises ServerError, and then nothing is left running."""
    access.check_access(host)
    down()  # what may be left where a supervisor was killed
    store = address(params.tracking or "sqlite:///mlruns/mlflow.db")
    for name, port in (("prefect", prefect_port), ("mlflow", mlflow_port)):
        if name != "mlflow" or not store.page:
            _check_free(name, host, port)
    if params.tracking and not store.page:
        prepare_store(params.tracking)
    home = Path(tempfile.mkdtemp(prefix="trackway-"))
    socket_file = str(home / "supervisor.sock")
    warm = place() == own_place()
    servers = Servers(secrets.token_hex(8), socket_file, prefect_port, mlflow_port, store.page, host, warm)
    make_private(FOLDER, Path(".prefect"))
    umask = os.umask(0o077)
    try:
        write_atomically(STATE, json.dumps(asdict(servers)).encode())
        write_atomically(CONFIG, _config(servers, umask).encode())
        command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(CONFIG)]
        subprocess.run(command, env=os.environ | _secrets(servers, store.uri), check=True)
    finally:
        os.umask(umask)
    try:
        _wait(servers)
    except BaseException:
        down()
        raise
    _point_prefect_at(servers.api)
    return servers


def _secrets(servers: Servers, store: str) -> dict[str, str]:
    """What the servers and all that they start inherit: the passwords, which no file and no argument has."""
    environment = {MARK: servers.mark, "MLFLOW_BACKEND_STORE_URI": store}
    if password := os.environ.get(access.PASSWORD):
        environment |= access.for_server(password) | access.for_clients(password)
    return environment


def make_private(*folders: Path) -> None:
    """Other accounts see nothing in them: logs, the history of runs, addresses with tokens."""
    for folder in folders:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)


def _check_free(name: str, host: str, port: int) -> None:
    try:
        family, kind, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise ServerError(
                f"port {port} for {name} cannot be used ({error.strerror}); choose another with --{name}-port"
            ) from None
        raise ServerError(f"--host {host} is no address of this machine ({error.strerror})") from None


def _wait(servers: Servers) -> None:
    deadline = time.monotonic() + PATIENCE
    said = time.monotonic()
    for name in servers.ours:
        while not servers.answering(name):
            state = servers.states()[name]
            if name == "warm" and state == "FATAL":
                print(f"stages start cold: {log_file(name)} says why")
                break
            if state == "FATAL" or time.monotonic() > deadline:
                lines = log_file(name).read_text(errors="replace").splitlines()[-20:]
                raise ServerError(
                    "\n".join([f"{name} does not answer ({state}); its log {log_file(name)} ends:", *lines])
                )
            if time.monotonic() > said + BETWEEN_LINES:
                said = time.monotonic()
                print(f"waiting for {name} to answer")
            time.sleep(0.3)
        else:
            print(f"{name} answers")


def down() -> bool:
    """Stops what `up` started in this folder, the serving process and its flow runs first. False: nothing ran."""
    servers = last()
    if not servers:
        return False
    here = Path.cwd()
    left = servers.processes(here)
    if running():
        _cancel_runs(servers)
        for name in reversed(servers.ours):
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

    with suppress(requests.RequestException):  # no server, no runs
        for run in servers.ask_prefect("flow_runs/filter", under_way):
            servers.ask_prefect(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
        deadline = time.monotonic() + 20
        while servers.ask_prefect("flow_runs/filter", under_way) and time.monotonic() < deadline:
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


def _config(servers: Servers, umask: int) -> str:
    """umask: of the processes; what supervisord itself writes, their logs, is for the user alone."""
    python = shlex.quote(sys.executable)
    uvicorn = f"{python} -m uvicorn --log-level warning --host {servers.host}"
    commands = {
        "prefect": f"{uvicorn} --port {servers.prefect_port} --factory flows.guard:prefect",
        "mlflow": f"{uvicorn} --port {servers.mlflow_port} --factory flows.guard:mlflow",
        "serve": f"{python} -m flows.deployments",
        "warm": f"{python} -m flows.executors.warm {shlex.quote(own_place())} {COMMAND}",
    }
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes, for LLM judges
        access.HOST: servers.host,
        "PREFECT_API_URL": servers.api,
        "PREFECT_UI_API_URL": "/api",  # of whatever name and port the page was opened with
        "PREFECT_RUNNER_POLL_FREQUENCY": str(POLL),
    }
    if not access.is_loopback(servers.host):  # the guard checks both; MLflow itself knows this machine's names only
        environment |= {"MLFLOW_SERVER_ALLOWED_HOSTS": "*", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*"}
    # Its forks become stages of any shell in this folder: they have that shell's environment, and outlive `down`.
    warm = {"PATH": environment["PATH"], MARK: ""}
    config: dict[str, dict[str, Any]] = {
        "supervisord": {
            "logfile": FOLDER / "supervisord.log",
            "pidfile": FOLDER / "supervisord.pid",
            "silent": "true",
            "umask": "077",
        },
        "unix_http_server": {"file": servers.socket, "chmod": "0700"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
    }
    for priority, name in enumerate(servers.ours):
        config[f"program:{name}"] = {
            "command": commands[name],
            "umask": f"{umask:03o}",
            "environment": ",".join(
                f'{key}="{value}"' for key, value in (warm if name == "warm" else environment).items()
            ),
            "priority": str(priority),
            "autorestart": "true",
            "startsecs": "20" if name == "warm" else "3",  # it ends after its imports if it cannot fork
            "startretries": "1" if name == "warm" else "5",
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
