"""MLflow's store after the project's folder has moved, and after everything was killed."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
import psutil
import pytest

from tasks.tracking.tags import HEARTBEAT, PROCESS
from tests.integration.tasks.test_tracking import artifacts, run_of, run_status, runs
from tests.support.project import TRACKWAY, Project

USE = """
import mlflow
from tasks.tracking.delivery import prepare_store

uri = "sqlite:///mlruns/mlflow.db"
prepare_store(uri)
client = mlflow.MlflowClient(uri)
for run in client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]):
    client.download_artifacts(run.info.run_id, "", "downloaded")
mlflow.set_tracking_uri(uri)
print(mlflow.pytorch.load_model("models:/digits@champion"))
"""


def texts(project: Project) -> set[str]:
    """Every text in MLflow's database, whatever the column."""
    with closing(sqlite3.connect(project.folder / "mlruns/mlflow.db")) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [row for table in tables for row in database.execute(f'SELECT * FROM "{table}"')]
    return {value for row in rows for value in row if isinstance(value, str)}


def files(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_a_renamed_project_goes_on_where_it_was(finished: Project) -> None:
    finished.python(USE)
    old = finished.folder
    shutil.rmtree(old / "downloaded")
    project = Project(old.rename(old.parent / "100% café, renamed"))
    assert "GraphModule" in project.python(USE).stdout
    for file in ("state_dict/model.pt", "history/digits-mlp.csv", "figures/confusion_matrix.png"):
        assert (project.folder / "downloaded" / file).is_file()

    for stage in ("train@digits-mlp", "evaluate@digits-mlp", "register@digits"):
        project.stage(stage)
    assert not old.exists()
    assert not [text for text in texts(project) if f"{old}/" in text]
    new = max(runs(project, "digits"), key=lambda run: run.info.start_time)
    assert new.info.artifact_uri.startswith(f"{(project.folder / 'mlruns').as_uri()}/artifacts/digits/")
    assert "state_dict/model.pt" in artifacts(project, new)


def test_a_copied_project_leaves_the_original_alone(finished: Project) -> None:
    finished.python(USE)
    before = files(finished.folder / "mlruns")
    copy = Project(finished.folder.with_name("project-copy"))  # the old name is how the new one begins
    shutil.copytree(finished.folder, copy.folder, symlinks=True)
    original = finished.folder.rename(finished.folder.with_name("away"))  # whatever is read from it is missed
    copy.python(USE)
    original.rename(finished.folder)

    for stage in ("train@digits-mlp", "evaluate@digits-mlp", "register@digits"):
        copy.stage(stage)
    assert len(runs(copy, "digits")) == len(runs(finished, "digits")) + 1
    assert not [text for text in texts(copy) if f"{finished.folder}/" in text]
    assert files(finished.folder / "mlruns") == before


def test_a_store_that_is_where_it_was_is_not_written(finished: Project) -> None:
    finished.python(USE)
    before = files(finished.folder / "mlruns")
    finished.python(USE)
    assert files(finished.folder / "mlruns") == before


def test_an_experiment_that_someone_keeps_elsewhere_stays_there(finished: Project) -> None:
    client = mlflow.MlflowClient(finished.tracking_uri)
    places = {"cloud": "s3://bucket/artifacts/cloud", "server": "mlflow-artifacts:/7", "disk": "file:///somewhere/else"}
    for name, location in places.items():
        client.create_experiment(name, artifact_location=location)
    finished.python(USE)
    assert set(places.values()) <= texts(finished)


@contextmanager
def long_training(project: Project) -> Iterator[subprocess.Popen[bytes]]:
    """Of digits-mlp, as soon as its run is in MLflow."""
    before = len(runs(project, "digits"))
    params = project.read("params.yaml")
    project.edit("params.yaml", "epochs: 30", "epochs: 1000000")
    command = [sys.executable, "-m", "tasks.train", "digits-mlp"]
    training = subprocess.Popen(command, cwd=project.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(runs(project, "digits")) == before:
            assert training.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        (project.folder / "params.yaml").write_text(params, encoding="utf-8")
        yield training
    finally:
        training.kill()
        training.wait()


@pytest.mark.usefixtures("as_shipped")
def test_a_run_whose_processes_were_all_killed_is_marked_by_the_next(finished: Project) -> None:
    with long_training(finished) as training:
        (writer,) = psutil.Process(training.pid).children()
        writer.kill()
        training.send_signal(signal.SIGKILL)
        training.wait()
        psutil.wait_procs([writer], timeout=10)
        assert run_status(finished) == "RUNNING"
        finished.stage("train@line-linear")
        assert run_status(finished) == "KILLED"


def test_a_run_that_goes_on_is_not_marked(finished: Project) -> None:
    with long_training(finished):
        finished.stage("train@line-linear")
        assert run_status(finished) == "RUNNING"


def test_a_run_of_another_machine_is_marked_when_its_heart_has_stopped(finished: Project) -> None:
    client = mlflow.MlflowClient(finished.tracking_uri)
    now = int(time.time() * 1000)
    for name, beat in {"digits-cnn": now, "digits-mlp": now - 3_600_000}.items():
        run = run_of(finished, name)
        client.set_tag(run.info.run_id, PROCESS, '["another-host", 1, 0.0]')
        client.set_tag(run.info.run_id, HEARTBEAT, str(beat))
        client.update_run(run.info.run_id, "RUNNING")
    finished.python("from tasks.tracking.delivery import prepare_store as p; p('sqlite:///mlruns/mlflow.db')")
    assert run_of(finished, "digits-cnn").info.status == "RUNNING"
    assert run_of(finished, "digits-mlp").info.status == "KILLED"


def test_a_run_whose_writing_fails_is_marked(finished: Project) -> None:
    client = mlflow.MlflowClient(finished.tracking_uri)
    client.delete_run(run_of(finished, "line-parameters").info.run_id)
    folder = finished.folder / "mlruns/artifacts/line"
    folder.rename(folder.with_name("away"))
    folder.write_text("no folder")
    assert finished.run(*TRACKWAY, "relog", check=False).returncode == 1
    assert run_of(finished, "line-parameters").info.status == "FAILED"
