"""supervisord's configuration (supervisor.readthedocs.io), and what the servers inherit."""

from __future__ import annotations

import configparser
import io
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from flows.servers import access
from flows.servers.state import FOLDER, Servers, log_file
from tasks.warm import own_place
from tasks.workspace.environment import HOST, PASSWORD, SERVERS

CONFIG = FOLDER / "supervisord.conf"
POLL_SECONDS = 3  # seconds between two times that the serving process asks Prefect's server what to start
COMMAND_LIBRARIES = (  # libraries of the `trackway` command, beside those of stages
    "typer rich.table prefect prefect.client.orchestration prefect.flow_engine prefect.task_engine prefect.artifacts "
    "apprise supervisor.xmlrpc"
)


def supervisor_config(servers: Servers, umask: int) -> str:
    """umask: of the processes; what supervisord itself writes, their logs, is for the user alone."""
    python = shlex.quote(sys.executable)
    uvicorn = f"{python} -m uvicorn --log-level warning --host {servers.host}"
    commands = {
        "prefect": f"{uvicorn} --port {servers.prefect_port} --factory flows.servers.guard:prefect",
        "mlflow": f"{uvicorn} --port {servers.mlflow_port} --factory flows.servers.guard:mlflow",
        "serve": f"{python} -m flows.deployments",
        "warm": f"{python} -m flows.executors.warm {shlex.quote(own_place())} {COMMAND_LIBRARIES}",
    }
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes, for LLM judges
        HOST: servers.host,
        "PREFECT_API_URL": servers.api,
        "PREFECT_UI_API_URL": "/api",  # of whatever name and port the page was opened with
        "PREFECT_RUNNER_POLL_FREQUENCY": str(POLL_SECONDS),
    }
    if not access.is_loopback(servers.host):  # the guard checks both; MLflow itself knows this machine's names only
        environment |= {"MLFLOW_SERVER_ALLOWED_HOSTS": "*", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*"}
    # Its forks become stages of any shell in this folder: they have that shell's environment, and outlive `down`.
    warm = {"PATH": environment["PATH"], SERVERS: ""}
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


def inherited_environment(servers: Servers, store: str) -> dict[str, str]:
    """What the servers and all that they start inherit: the passwords, which no file and no argument has."""
    environment = {SERVERS: servers.mark, "MLFLOW_BACKEND_STORE_URI": store}
    if password := os.environ.get(PASSWORD):
        environment |= access.for_server(password) | access.for_clients(password)
    return environment
