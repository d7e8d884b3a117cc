"""Gives a folder Prefect's database with all tables, which Prefect would otherwise make in 8 seconds, step by step.

python -m flows.servers.database        # makes an empty database, once for a Python environment
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path

NAME = "prefect.db"  # Prefect's name for it, below PREFECT_HOME


def prepared() -> Path:
    """Returns the path of the empty database for the installed release of Prefect."""
    return Path(sys.prefix, "share", "trackway", f"prefect-{version('prefect')}.db")


def prepare() -> None:
    """Has Prefect make its tables in an empty database, and keeps that in this Python environment."""
    prepared().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=prepared().parent) as folder:
        file, whole = Path(folder, NAME), Path(folder, "whole.db")
        ours = {"PREFECT_HOME": folder, "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{file}"}
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
        subprocess.run(command, env=os.environ | ours, check=True, stdout=subprocess.DEVNULL)
        with closing(sqlite3.connect(file)) as database:
            database.execute("VACUUM INTO ?", [str(whole)])  # with what is still in SQLite's write-ahead log
        whole.replace(prepared())


def copy_tables(home: Path) -> None:
    """Copies the empty database to a folder, if the folder has none; if none is prepared, Prefect makes its tables.

    Args:
        home: Prefect's folder, PREFECT_HOME; it exists.
    """
    place = home / NAME
    if place.exists() or not prepared().is_file():
        return
    partial = home / f".{NAME}.{os.getpid()}"
    try:
        shutil.copyfile(prepared(), partial)
        with suppress(OSError):  # another process was faster, or the file system has no links
            os.link(partial, place)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    prepare()
    print(f"Prefect's tables are made in {prepared()}")
