"""Starts and stops the servers of `trackway up`: Prefect's, MLflow's, the deployments' process, and the warm process.

If `tracking` in params.yaml is a tracking server, no MLflow server is started, and links lead to that one.

supervisord (supervisor.readthedocs.io) starts the servers, restarts those that crash, and keeps their logs, all below
.servers/. They listen on 127.0.0.1, or where --host says; access.py decides who may use them.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil
import requests

from flows.servers import access
from flows.servers.config import CONFIG, inherited_environment, supervisor_config
from flows.servers.database import copy_tables
from flows.servers.state import FOLDER, STATE, Servers, last, log_file, running
from learn.errors import ServerError
from tasks.params import Params
from tasks.tracking.address import address
from tasks.tracking.delivery import prepare_store
from tasks.warm import own_place, place
from tasks.workspace.files import write_atomically

PREFECT_HOME = Path(".prefect")  # as in pyproject.toml
SECONDS_BETWEEN_LINES = 4  # time between two lines that say what is waited for
SECONDS_UNTIL_UP = 120  # time in which all must answer; the first start creates Prefect's and MLflow's tables


def up(params: Params, *, host: str, prefect_port: int, mlflow_port: int) -> Servers:
    """Starts the servers, and returns when they answer.

    Args:
        params: The parameters.
        host: The address where they listen.
        prefect_port: Port of Prefect's server.
        mlflow_port: Port of MLflow's server.

    Raises:
        ServerError: A server does not start, or access is not allowed; nothing is left running.
        TrackingError: MLflow's store cannot be used; nothing is left running.
    """
    access.check_access(host)
    down()  # a supervisor that was killed may have left processes
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
    make_private(FOLDER, PREFECT_HOME)
    copy_tables(PREFECT_HOME)
    umask = os.umask(0o077)
    try:
        write_atomically(STATE, json.dumps(asdict(servers)).encode())
        write_atomically(CONFIG, supervisor_config(servers, umask).encode())
        command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(CONFIG)]
        subprocess.run(command, env=os.environ | inherited_environment(servers, store.uri), check=True)
    finally:
        os.umask(umask)
    try:
        _wait(servers)
    except BaseException:
        down()
        raise
    _point_prefect_at(servers.api)
    return servers


def make_private(*folders: Path) -> None:
    """Creates folders that other accounts cannot read: they have logs, the history of runs, addresses with tokens."""
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
    deadline = time.monotonic() + SECONDS_UNTIL_UP
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
            if time.monotonic() > said + SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                print(f"waiting for {name} to answer")
            time.sleep(0.3)
        else:
            print(f"{name} answers")


def down() -> bool:
    """Stops what `up` started in this folder, the serving process and its flow runs first.

    Returns:
        True if something was stopped.
    """
    servers = last()
    if not servers:
        return False
    here = Path.cwd()
    left = servers.processes(here)
    if running():
        _cancel_runs(servers)
        for name in reversed(servers.ours):
            with suppress(xmlrpc.client.Fault):  # the process does not run
                servers.supervisor.stopProcess(name, name == "serve")
        servers.supervisor.shutdown()
        _, left = psutil.wait_procs(left, timeout=10)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, left = psutil.wait_procs(servers.processes(here), timeout=10)
    if not servers.processes(Path("/")):  # otherwise this folder is a copy, and the socket belongs to the original
        shutil.rmtree(Path(servers.socket).parent, ignore_errors=True)
    STATE.unlink()
    _point_prefect_at(None)
    return True


def _cancel_runs(servers: Servers) -> None:
    """Cancels the runs of deployments, and waits up to 20 seconds until they have ended."""
    under_way = {
        "flow_runs": {
            "state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}},
            "deployment_id": {"is_null_": False},
        }
    }

    with suppress(requests.RequestException):  # without a server there are no runs to cancel
        for run in servers.ask_prefect("flow_runs/filter", under_way):
            servers.ask_prefect(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
        deadline = time.monotonic() + 20
        while servers.ask_prefect("flow_runs/filter", under_way) and time.monotonic() < deadline:
            time.sleep(0.3)


def _point_prefect_at(api: str | None) -> None:
    """Sets which server Prefect's commands in this folder use, in a profile below .prefect/.

    Args:
        api: Address of the server's API; None lets each command start its own server.
    """
    from prefect.settings import PREFECT_API_URL, load_profiles, save_profiles

    profiles = load_profiles()
    if api:
        profiles.update_profile("trackway", {PREFECT_API_URL: api})
        profiles.set_active("trackway")
    elif "trackway" in profiles.names:
        profiles.remove_profile("trackway")
        profiles.set_active("ephemeral")
    save_profiles(profiles)
