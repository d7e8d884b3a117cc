"""`tracking` in params.yaml → the address of MLflow's store as MLflow takes it, and as a message may show it.

`$NAME` in it is taken from the environment, so that a password need not stand in the file. A relative SQLite file lies
in the project's folder, also while `dvc exp run --temp` or `--queue` runs the stages in a copy of that folder.
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
USER = re.compile(r"(?<=://).*@")  # up to the last @, for a password may hold / and @
USER_IN_TEXT = re.compile(r"(?<=://)[^\s'\"/]*@")
PASSWORD = re.compile(r"(?<=password=)[^\s&'\"]+")
SHORTEST = 4  # characters of a password that is looked for in a text by itself; shorter ones are in every text


@dataclass(frozen=True)
class Address:
    """Where MLflow's store is."""

    uri: str  # for MLflow alone: it may hold a password
    shown: str  # for messages

    @property
    def file(self) -> Path | None:
        """The database of a SQLite store; None for a server."""
        return Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None

    @property
    def page(self) -> str | None:
        """What a browser opens, if the store is a tracking server: without user and password."""
        return self.shown.replace("***@", "").rstrip("/") if self.uri.startswith("http") else None

    def redacted(self, text: str) -> str:
        """A text (of an error, say) without the store's password, in whatever form."""
        user = USER.search(self.uri)
        _, _, password = user[0][:-1].partition(":") if user else ("", "", "")
        secrets = {password, unquote(password), *PASSWORD.findall(self.uri)}
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) >= SHORTEST:
                text = text.replace(secret, "***")
        return redacted(text)


def redacted(text: str) -> str:
    """A text whose addresses name no user and no password."""
    return PASSWORD.sub("***", USER_IN_TEXT.sub("***@", text))


def _shown(uri: str) -> str:
    return uri if uri.startswith(SQLITE) else PASSWORD.sub("***", USER.sub("***@", uri))


def address(tracking: str) -> Address:
    """Raises TrackingError if it names a variable that is not set, or no store that MLflow knows."""

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


def project_folder() -> Path:
    """Where the project is, seen from here: DVC_ROOT if this is one of the copies that DVC makes in .dvc/tmp/exps."""
    root = Path(os.environ.get("DVC_ROOT", "")).resolve()
    return root if Path.cwd().is_relative_to(root / ".dvc/tmp/exps") else Path()
