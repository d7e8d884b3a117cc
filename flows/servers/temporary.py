"""A Prefect server for one `trackway run`, if none runs: the flow's own, in a session of its own.

Prefect would start one, too, but among the processes that a Ctrl-C in the terminal reaches, and would then ask it for
minutes, in vain; and it would outlive a killed flow. This one ends when the flow's process ends, however that is.
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
PATIENCE = 120  # seconds until it answers; the first start makes Prefect's tables


def start_temporary_server() -> Callable[[], None]:
    """Starts a server, if Prefect is not told to use another; returns what waits until it answers.

    That raises ServerError, with the end of its log, if the server does not come up. To be called before Prefect is
    imported: the one takes as long as the other.
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
            stdin=subprocess.PIPE,  # its lifeline: ends with this process
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    api = f"http://{LOCAL}:{port}/api"
    os.environ |= {API: api, "PREFECT_UI_URL": ""} | for_clients(password)  # it has no page to link to
    return lambda: _wait(process, api, log)


def _is_told(home: Path) -> bool:
    """Whether Prefect's settings name a server, in the environment or in one of their files."""
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
