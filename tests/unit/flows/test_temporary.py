"""Prefect's server of a single `trackway run`, or the one that Prefect is told to use."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.servers.temporary import API, TemporaryServer, start_temporary_server
from learn.errors import ServerError


def test_another_server_that_is_away_is_named_with_what_helps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(API, "http://127.0.0.1:1/api")
    server = start_temporary_server()
    assert server == TemporaryServer(), "none is started"
    with pytest.raises(
        ServerError, match=r"at http://127.0.0.1:1/api does not answer \(ConnectionError\); start it, unset"
    ):
        server.wait()
