"""Prefect's database: its tables are made once for an environment, and copied to each folder."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flows.servers.database import copy_tables, prepare, prepared
from flows.servers.temporary import start_temporary_server
from tests.support.project import PREFECT


def test_prefect_s_tables_come_from_a_database_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    home = tmp_path / "home"
    home.mkdir()
    copy_tables(home)
    assert not list(home.iterdir()), "none is prepared: Prefect makes its tables itself"
    prepare()
    copy_tables(home)
    assert [file.name for file in home.iterdir()] == ["prefect.db"]
    copied = (home / "prefect.db").read_bytes()
    monkeypatch.setenv("PREFECT_HOME", str(home))
    for name in PREFECT:
        monkeypatch.delenv(name, raising=False)
    server = start_temporary_server()
    server.wait()
    server.stop()
    with closing(sqlite3.connect(home / "prefect.db")) as used, closing(sqlite3.connect(prepared())) as empty:
        tables = "SELECT name, sql FROM sqlite_master ORDER BY name"
        assert used.execute(tables).fetchall() == empty.execute(tables).fetchall(), "as Prefect wants them"
    used_bytes = (home / "prefect.db").read_bytes()
    copy_tables(home)
    assert (home / "prefect.db").read_bytes() == used_bytes, "a database that is there stays"
    assert prepared().read_bytes() == copied
