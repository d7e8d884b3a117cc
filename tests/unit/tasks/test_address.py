"""`tracking` in params.yaml: variables, the project's folder, and no password in what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from learn.errors import TrackingError
from tasks.tracking.address import address, redacted


@pytest.mark.parametrize("password", ["s3cr3t", "s3/cr3t", "s3@cr3t", "s3%40cr3t"])
def test_a_password_from_the_environment_is_used_and_not_shown(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    monkeypatch.setenv("PGPASS_OF_TEST", password)
    for tracking in ("postgresql://me:$PGPASS_OF_TEST@host/db", "postgresql://me:${PGPASS_OF_TEST}@host/db"):
        store = address(tracking)
        assert store.uri == f"postgresql://me:{password}@host/db"
        assert store.shown == "postgresql://***@host/db"
        assert store.redacted(f'no host "{password}", see {store.uri}') == 'no host "***", see postgresql://***@host/db'


def test_a_tracking_server_s_page_has_no_user_in_its_address() -> None:
    assert address("https://me:s3cr3t@host:5000/mlflow/").page == "https://host:5000/mlflow"
    assert address("postgresql://me:s3cr3t@host/db").page is None
    assert (
        redacted("see http://a:b@c/d and x@y.org, ?password=abc&x=1")
        == "see http://***@c/d and x@y.org, ?password=***&x=1"
    )


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(
        TrackingError, match=r"^tracking is http://\*\*\*@host, but the environment has no NOT_SET_HERE; set"
    ):
        address("http://me:$NOT_SET_HERE@host")


def test_a_relative_store_lies_in_the_project_also_for_dvc_s_copies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = tmp_path / ".dvc/tmp/exps/standalone/tmp123"
    copy.mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert address("sqlite:///mlruns/mlflow.db").file == Path("mlruns/mlflow.db")
    monkeypatch.chdir(copy)
    assert address("sqlite:///mlruns/mlflow.db").file == tmp_path / "mlruns/mlflow.db"
    assert address("sqlite:////elsewhere/mlflow.db").file == Path("/elsewhere/mlflow.db")
