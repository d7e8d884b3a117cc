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
from dataclasses import dataclass
from pathlib import Path

import requests

from flows.servers.access import LOCAL, for_clients, for_server
from flows.servers.database import copy_tables
from flows.servers.lifecycle import make_private
from learn.errors import ServerError
from tasks.workspace.environment import HOST, LIFELINE

API = "PREFECT_API_URL"
SECONDS_UNTIL_UP = 120  # until it answers; the first start makes Prefect's tables


@dataclass(frozen=True)
class TemporaryServer:
    """A server that ends with this process; or none, if Prefect is told to use another."""

    process: subprocess.Popen[bytes] | None = None
    api: str = ""
    log: Path = Path()

    def wait(self) -> None:
        """Returns when it answers. Raises ServerError, with the end of its log, if it does not come up.

        Of another server it asks only whether it is there.
        """
        if not self.process:
            _check_other()
        deadline = time.monotonic() + SECONDS_UNTIL_UP
        while self.process and not _answers(self.api):
            if self.process.poll() is not None or time.monotonic() > deadline:
                lines = self.log.read_text(errors="replace").splitlines()[-20:]
                what = f"Prefect's temporary server does not answer; its log {self.log} ends:"
                raise ServerError("\n".join([what, *lines]))
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends it before this process ends."""
        if self.process and self.process.stdin:
            self.process.stdin.close()
            self.process.wait()


def start_temporary_server() -> TemporaryServer:
    """Starts a server, if Prefect is not told to use another.

    Call this before Prefect is imported: the one takes as long as the other.
    """
    home = Path(os.environ.get("PREFECT_HOME", ".prefect"))
    if _is_told(home):
        return TemporaryServer()
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        port = str(probe.getsockname()[1])
    log = home / "temporary-server.log"
    command = ["-m", "uvicorn", "--factory", "flows.servers.guard:prefect", "--host", LOCAL, "--port", port]
    password = secrets.token_hex(16)
    ours = {LIFELINE: "stdin", HOST: LOCAL, "PREFECT_UI_ENABLED": "false", "PREFECT__SERVER_EPHEMERAL": "1"}
    make_private(home)
    copy_tables(home)
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
    os.environ |= {API: api, "PREFECT_UI_URL": ""} | for_clients(password)  # it has no page to link to
    return TemporaryServer(process, api, log)


def _is_told(home: Path) -> bool:
    """Returns whether Prefect's settings, in the environment or in one of their files, name a server."""
    profiles = os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")
    files = [Path(file) for file in (profiles, ".prefect/profiles.toml", "prefect.toml", "pyproject.toml", ".env")]
    if os.environ.get(API):
        return True
    if not any(file.is_file() and b"api" in file.read_bytes().lower() for file in files):
        return False
    from prefect.settings import Settings

    return bool(Settings().api.url)  # as they are now; a fork of the warm process has those of its start


def _check_other() -> None:
    """Raises ServerError if nothing answers where Prefect's settings say."""
    from prefect.settings import Settings

    api = Settings().api.url
    try:
        requests.get(f"{api}/health", timeout=20)
    except requests.RequestException as error:
        raise ServerError(
            f"Prefect's server at {api} does not answer ({type(error).__name__}); start it, unset {API} so that each "
            "flow has a server of its own, or run dvc repro, which needs none"
        ) from error


def _answers(api: str) -> bool:
    try:
        return requests.get(f"{api}/health", timeout=5).ok
    except requests.RequestException:
        return False
