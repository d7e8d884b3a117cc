"""Starts a Prefect server for a single `trackway run` if no other server runs.

Prefect itself would start one, too, but Ctrl-C in the terminal would end that server before the flow, which would then
wait for it for minutes; and it would outlive a flow that is killed. This one has its own session, and ends when the
flow's process ends for any reason.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import requests

from flows.servers.access import LOCAL, for_clients, for_server
from flows.servers.lifecycle import make_private
from learn.errors import ServerError
from tasks.workspace.environment import HOST, LIFELINE

API = "PREFECT_API_URL"
PATIENCE = 120  # seconds in which the server must answer; the first start creates Prefect's tables


def start_temporary_server() -> Callable[[], None]:
    """Starts a server unless Prefect's settings name one.

    Call before importing Prefect: the server starts while Prefect is imported, which takes as long.

    Returns:
        A function that waits until the server answers; it raises ServerError, with the end of the server's log, if the
        server does not start.
    """
    home = Path(os.environ.get("PREFECT_HOME", ".prefect"))
    if _is_told(home):
        return lambda: None
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        port = str(probe.getsockname()[1])
    log = home / "temporary-server.log"
    command = ["-m", "uvicorn", "--factory", "flows.servers.guard:prefect", "--host", LOCAL, "--port", port]
    password = secrets.token_hex(16)
    ours = {LIFELINE: "stdin", HOST: LOCAL, "PREFECT_UI_ENABLED": "false", "PREFECT__SERVER_EPHEMERAL": "1"}
    make_private(log.parent)
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command, "--log-level", "warning", "--timeout-graceful-shutdown", "2"],
            env=os.environ | ours | for_server(password),
            stdin=subprocess.PIPE,  # the server ends when this pipe closes, at the latest with this process
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    api = f"http://{LOCAL}:{port}/api"
    os.environ |= {API: api, "PREFECT_UI_URL": ""} | for_clients(password)  # this server has no page to link to
    return lambda: _wait(process, api, log)


def _is_told(home: Path) -> bool:
    """Returns whether Prefect's settings, in the environment or in one of their files, name a server."""
    profiles = os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")
    files = [Path(file) for file in (profiles, ".prefect/profiles.toml", "prefect.toml", "pyproject.toml", ".env")]
    if os.environ.get(API):
        return True
    if not any(file.is_file() and b"api" in file.read_bytes().lower() for file in files):
        return False
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())


def _wait(process: subprocess.Popen[bytes], api: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not _answers(api):
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").splitlines()[-20:]
            raise ServerError("\n".join([f"Prefect's temporary server does not answer; its log {log} ends:", *lines]))
        time.sleep(0.1)


def _answers(api: str) -> bool:
    try:
        return requests.get(f"{api}/health", timeout=5).ok
    except requests.RequestException:
        return False
