"""Turns `tracking` in params.yaml into the address of MLflow's store, for MLflow and, without password, for messages.

`$NAME` in it is replaced from the environment, so that the file need not contain a password. A relative SQLite file is
in the project's folder, even if `dvc exp run --temp` or `--queue` runs the stages in a copy of that folder.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from learn.errors import TrackingError
from tasks.params import PARAMS_FILE, STORES

SQLITE = "sqlite:///"
NAME = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
USER = re.compile(r"(?<=://).*@")  # up to the last @, because a password may contain / and @
USER_IN_TEXT = re.compile(r"(?<=://)[^\s'\"/]*@")
PASSWORD = re.compile(r"(?<=password=)[^\s&'\"]+")
SHORTEST = 4  # characters of the shortest password that is removed from a text; shorter ones occur in most texts


@dataclass(frozen=True)
class Address:
    """Where MLflow's store is."""

    uri: str  # for MLflow only: it may contain a password
    shown: str  # for messages: without password

    @property
    def file(self) -> Path | None:
        """The database of a SQLite store; None for a server."""
        return Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None

    @property
    def page(self) -> str | None:
        """Address for a browser, without user and password; None if the store is no tracking server."""
        return self.shown.replace("***@", "").rstrip("/") if self.uri.startswith("http") else None

    def redacted(self, text: str) -> str:
        """Returns a text, such as an error's, without the store's password in any of its forms."""
        user = USER.search(self.uri)
        _, _, password = user[0][:-1].partition(":") if user else ("", "", "")
        secrets = {password, unquote(password), *PASSWORD.findall(self.uri)}
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) >= SHORTEST:
                text = text.replace(secret, "***")
        return redacted(text)


def redacted(text: str) -> str:
    """Returns a text with users and passwords removed from its addresses."""
    return PASSWORD.sub("***", USER_IN_TEXT.sub("***@", text))


def _shown(uri: str) -> str:
    return uri if uri.startswith(SQLITE) else PASSWORD.sub("***", USER.sub("***@", uri))


def address(tracking: str) -> Address:
    """Returns the address of the store that `tracking` names.

    Raises:
        TrackingError: It names an environment variable that is not set, or a kind of store that MLflow does not know.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise TrackingError(
                f"tracking is {_shown(tracking)}, but the environment has no {name}; set it "
                f"({PARAMS_FILE}; a $ that is meant is written %24)"
            )
        return os.environ[name]

    uri = NAME.sub(value, tracking)
    if not uri.startswith(STORES):
        raise TrackingError(
            f"tracking is {_shown(uri)}; it must be the address of an MLflow store: "
            f"{', '.join(store + '...' for store in STORES)} ({PARAMS_FILE})"
        )
    shown = _shown(uri)
    if uri.startswith(SQLITE):
        uri = f"{SQLITE}{project_folder() / uri.removeprefix(SQLITE)}"
    return Address(uri, shown)


def names_in(tracking: str) -> set[str]:
    """Returns the names of the environment variables in `tracking`."""
    return {match[1] or match[2] for match in NAME.finditer(tracking)}


def project_folder() -> Path:
    """Returns the project's folder: DVC_ROOT in one of the copies that DVC makes in .dvc/tmp/exps, else this folder."""
    root = Path(os.environ.get("DVC_ROOT", "")).resolve()
    return root if Path.cwd().is_relative_to(root / ".dvc/tmp/exps") else Path()
