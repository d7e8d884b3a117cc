"""Who may use the servers: where they listen, and the password that people set in the environment."""

from __future__ import annotations

import ipaddress
import os

from learn.errors import ServerError
from tasks.workspace.environment import PASSWORD

LOCAL = "127.0.0.1"
USER = "trackway"  # the name that goes with the password


def check_access(host: str) -> None:
    """Raises ServerError if other machines could use the servers without a password, or nobody with it."""
    password = os.environ.get(PASSWORD, "")
    if not (password.isascii() and password.isprintable()):
        raise ServerError(f"{PASSWORD} has other characters than printable ASCII; Prefect's server takes no others")
    if not is_loopback(host) and not password:
        raise ServerError(
            f"--host {host} lets other machines in, and who is in can run code; set a password first, in the "
            f"environment variable {PASSWORD} (the user's name is {USER})"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_wildcard(host: str) -> bool:
    """Whether a server there listens on all addresses of the machine: 0.0.0.0 or ::"""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def for_server(password: str) -> dict[str, str]:
    """The environment in which Prefect's server asks for a password; MLflow's reads PASSWORD itself."""
    return {"PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{password}"}


def for_clients(password: str) -> dict[str, str]:
    """The environment in which Prefect's clients give the password."""
    return {"PREFECT_API_AUTH_STRING": f"{USER}:{password}"}
