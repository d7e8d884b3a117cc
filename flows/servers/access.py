"""Decides who may use the servers, by the address where they listen and the password in the environment."""

from __future__ import annotations

import ipaddress
import os

from learn.errors import ServerError
from tasks.workspace.environment import PASSWORD

LOCAL = "127.0.0.1"
USER = "trackway"  # the user's name that belongs to the password


def check_access(host: str) -> None:
    """Raises ServerError if other machines could use the servers without a password, or if the password cannot work."""
    password = os.environ.get(PASSWORD, "")
    if not (password.isascii() and password.isprintable()):
        raise ServerError(f"{PASSWORD} has other characters than printable ASCII; Prefect's server takes no others")
    if not is_loopback(host) and not password:
        raise ServerError(
            f"--host {host} lets other machines in, and who is in can run code; set a password first, in the "
            f"environment variable {PASSWORD} (the user's name is {USER})"
        )


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_wildcard(host: str) -> bool:
    """Returns whether a server there listens on all addresses of the machine, as at 0.0.0.0 or `::`."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def for_server(password: str) -> dict[str, str]:
    """Returns the environment in which Prefect's server asks for a password; the guard of MLflow's reads PASSWORD."""
    return {"PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{password}"}


def for_clients(password: str) -> dict[str, str]:
    """Returns the environment in which Prefect's clients send the password."""
    return {"PREFECT_API_AUTH_STRING": f"{USER}:{password}"}
