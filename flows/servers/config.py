"""The configuration of supervisord (supervisor.readthedocs.io), and the environment that the servers inherit."""

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
POLL_SECONDS = 3  # time after which the serving process asks Prefect's server again for runs to start
COMMAND_LIBRARIES = (  # libraries that the `trackway` command needs besides those of stages
    "typer rich.table prefect prefect.client.orchestration prefect.flow_engine prefect.task_engine prefect.artifacts "
    "apprise supervisor.xmlrpc"
)


def supervisor_config(servers: Servers, umask: int) -> str:
    """Returns the content of supervisord's configuration file.

    Args:
        servers: The servers to start.
        umask: The umask of the servers; supervisord itself writes their logs for this user only.
    """
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
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # true starts seven more processes, for LLM judges
        HOST: servers.host,
        "PREFECT_API_URL": servers.api,
        "PREFECT_UI_API_URL": "/api",  # relative, so that it has the name and port with which the page was opened
        "PREFECT_RUNNER_POLL_FREQUENCY": str(POLL_SECONDS),
    }
    if not access.is_loopback(servers.host):  # the guard checks both; MLflow itself would allow only this machine
        environment |= {"MLFLOW_SERVER_ALLOWED_HOSTS": "*", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*"}
    # Forks of the warm process become stages of any shell in this folder, and must not be ended by `trackway down`.
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
            "startsecs": "20" if name == "warm" else "3",  # the warm process ends after its imports if it cannot fork
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
    """Returns what the servers and all that they start inherit, such as passwords, which are in no file or argument.

    Args:
        servers: The servers to start.
        store: Address of MLflow's store.
    """
    environment = {SERVERS: servers.mark, "MLFLOW_BACKEND_STORE_URI": store}
    if password := os.environ.get(PASSWORD):
        environment |= access.for_server(password) | access.for_clients(password)
    return environment
