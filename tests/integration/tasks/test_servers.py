"""Stores that are servers, MLflow's own and PostgreSQL, real ones; and what happens while they do not answer."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import mlflow
import psutil
import pytest
from mlflow.entities import Run

from tasks.tracking.old_tags import rename_old_tags
from tasks.tracking.store import connect
from tasks.tracking.tags import EXPERIMENT, KEY, NAMES, PREFIXED, prefixed
from tests.support.mlflow_server import Door, MlflowServer
from tests.support.postgres import PASSWORD, Postgres
from tests.support.project import TRACKWAY, Project, wait_until

SQLITE = "tracking: sqlite:///mlruns/mlflow.db"


@pytest.mark.parametrize("kind", ["postgres", "mlflow_server"])
def test_trainings_may_start_together_on_a_fresh_server(
    finished: Project, kind: str, request: pytest.FixtureRequest
) -> None:
    server: Postgres | MlflowServer = request.getfixturevalue(kind)
    uri = server.new_database() if isinstance(server, Postgres) else server.address.replace("//", f"//me:{PASSWORD}@")
    finished.edit("params.yaml", SQLITE, f"tracking: {uri}")
    names = ["line-linear", "line-parameters"]
    if isinstance(server, Postgres):  # its tables are still to be made
        names += ["circles-linear", "blobs-linear"]
    command = [sys.executable, "-m", "tasks.train"]
    trainings = [
        subprocess.Popen([*command, name], cwd=finished.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for name in names
    ]
    writers = wait_until(lambda: finished.processes("tasks.tracking"), 60)
    assert PASSWORD not in "".join(word for writer in writers for word in writer.cmdline())
    said = [training.communicate(timeout=300)[0].decode() for training in trainings]
    assert [training.returncode for training in trainings] == [0] * len(names), said
    client = mlflow.MlflowClient(uri)
    experiments = [e.experiment_id for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs(experiments)
    assert sorted(run.info.run_name for run in runs) == sorted(names)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert PASSWORD not in "".join(said)
    for stage in ("evaluate@line-linear", "register@line"):
        finished.stage(stage)
    assert client.get_model_version_by_alias("line", "champion").tags[EXPERIMENT] == "line-linear"


class Stopped(Exception):
    """Stands for a kill."""


class Writes:
    """A client of MLflow that is stopped after some writes."""

    def __init__(self, client: mlflow.MlflowClient, left: int = 1) -> None:
        self.client, self.left = client, left

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("set_", "log_", "delete_", "update_")):
            if not self.left:
                raise Stopped
            self.left -= 1
        return getattr(self.client, name)


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mlflow_server"])
def test_tags_of_an_earlier_version_are_renamed_and_a_kill_loses_none(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: Postgres | MlflowServer | None = None if kind == "sqlite" else request.getfixturevalue(kind)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    if server:
        uri = server.new_database() if isinstance(server, Postgres) else server.address
    with connect(uri) as client:
        for found in client.search_experiments():  # other tests have used the server
            if NAMES in found.tags:
                client.delete_experiment_tag(found.experiment_id, NAMES)
        experiment = client.create_experiment("old")
        own = {"mine": "x"}
        run = {"dvc.stage": "train@a", "state_dict.sha256": "1", "version.torch": "2", "git.dirty": "false"}
        trial = {"validation_data.md5": "3", "state_dict.sha256": "4"}
        version = {"experiment": "a", "state_dict.sha256": "1", "test/accuracy": "0.5"}
        runs = [client.create_run(experiment, tags=tags).info.run_id for tags in (run | own, trial | {KEY: "5"}, trial)]
        client.create_registered_model("old")
        client.create_model_version("old", client.get_run(runs[0]).info.artifact_uri, runs[0], version | own)

        def tags() -> list[dict[str, str]]:
            found = [client.get_run(each).data.tags for each in runs] + [client.get_model_version("old", "1").tags]
            return [{key: value for key, value in each.items() if not key.startswith("mlflow.")} for each in found]

        before, stopped = [prefixed(each) for each in tags()], True
        while stopped:
            try:
                rename_old_tags(cast("mlflow.MlflowClient", Writes(client)), uri)
                stopped = False
            except Stopped:
                assert [prefixed(each) for each in tags()] == before
        assert tags() == [prefixed(run) | own, prefixed(trial | {KEY: "5"}), trial, prefixed(version) | own]
        assert client.get_experiment(experiment).tags[NAMES] == PREFIXED
        rename_old_tags(cast("mlflow.MlflowClient", Writes(client)), uri)


@pytest.fixture
def away(finished: Project, door: Door) -> Project:
    """A project whose tracking server is behind the door."""
    finished.edit("params.yaml", SQLITE, f"tracking: {door.address}")
    return finished


def runs(server: MlflowServer, dataset: str, name: str) -> list[Run]:
    """Latest first."""
    client = mlflow.MlflowClient(server.address)
    experiment = client.get_experiment_by_name(dataset)
    found = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'") if experiment else []
    return sorted(found, key=lambda run: -run.info.start_time)


def points(server: MlflowServer, run: Run, key: str) -> list[int]:
    return sorted(point.step for point in mlflow.MlflowClient(server.address).get_metric_history(run.info.run_id, key))


def kept(project: Project) -> list[Path]:
    return sorted((project.folder / "mlruns/undelivered").glob("*"))


def test_an_outage_during_a_training_is_told_and_nothing_is_lost(
    away: Project, door: Door, mlflow_server: MlflowServer
) -> None:
    before = len(runs(mlflow_server, "digits", "digits-mlp"))
    away.edit("params.yaml", "epochs: 30\n", "epochs: 600\n")
    with away.start("python", "-m", "tasks.train", "digits-mlp", TRACKWAY_PATIENCE="300") as training:
        wait_until(lambda: len(runs(mlflow_server, "digits", "digits-mlp")) > before, 120)
        door.close()
        assert training.stdout
        said = ""
        while "does not answer" not in said:
            line = training.stdout.readline()
            assert line, said
            said += line
        door.open()
        said += training.communicate(timeout=300)[0]
    assert training.returncode == 0, said
    assert f"MLflow at {door.address} does not answer: " in said
    assert "MLflow is asked again until training ends, and 300 s longer" in said
    assert "MLflow answers again" in said
    run = runs(mlflow_server, "digits", "digits-mlp")[0]
    assert run.info.status == "FINISHED"
    for key in ("train/loss", "samples_per_second"):
        assert points(mlflow_server, run, key) == list(range(1, 601))
    assert kept(away) == []


def test_a_server_that_was_silent_and_then_refuses_costs_no_training(away: Project) -> None:
    """As a gateway does whose server starts again."""
    status = [503]

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status[0])

        do_POST = do_GET  # noqa: N815  # http.server's name

        def log_message(self, *_: object) -> None:
            pass

    away.edit("params.yaml", "epochs: 30\n", "epochs: 600\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as gateway:
        threading.Thread(target=gateway.serve_forever, daemon=True).start()
        address = re.search(r"^tracking: (.*)$", away.read("params.yaml"), re.MULTILINE)
        assert address
        away.edit("params.yaml", address[1], f"http://127.0.0.1:{gateway.server_port}")
        with away.start("python", "-m", "tasks.train", "digits-mlp") as training:
            assert training.stdout
            assert any("does not answer" in line for line in training.stdout)
            status[0] = 401
            said = training.communicate(timeout=300)[0]
        gateway.shutdown()
    assert training.returncode == 0, said
    assert "the next stage that uses MLflow delivers it, or `trackway relog`" in said
    assert '"status": "FINISHED"' in kept(away)[0].read_text()
    assert (away.folder / "models/digits-mlp/model.pt").is_file()


def test_a_training_without_its_tracking_server_is_kept_and_delivered_later(
    away: Project, door: Door, mlflow_server: MlflowServer
) -> None:
    door.close()
    trained = away.stage("train@blobs-linear", TRACKWAY_PATIENCE="1").stdout
    assert f"MLflow at {door.address} does not answer: " in trained
    assert "the next stage that uses MLflow delivers it, or `trackway relog`" in trained
    (journal,) = kept(away)
    assert journal.name in trained
    evaluated = away.stage("evaluate@blobs-linear", TRACKWAY_PATIENCE="1").stdout
    assert f"evaluate blobs-linear: MLflow at {door.address} does not answer: " in evaluated
    refused = away.stage("register@blobs", check=False, TRACKWAY_PATIENCE="1")
    assert refused.returncode == 1
    assert f"error: MLflow at {door.address} does not answer: " in refused.stdout
    for output in (trained, evaluated, refused.stdout):
        assert "Traceback" not in output

    door.open()
    copy = away.folder / "copy"
    shutil.copy(journal, copy)
    assert "is in MLflow now (FINISHED)" in away.stage("evaluate@blobs-linear").stdout
    away.stage("register@blobs")
    (run,) = runs(mlflow_server, "blobs", "blobs-linear")[:1]
    header = json.loads(copy.read_text().splitlines()[0])
    assert run.info.start_time == header["started"]
    assert run.info.end_time < header["started"] + 300_000
    client = mlflow.MlflowClient(mlflow_server.address)
    assert client.get_model_version_by_alias("blobs", "champion").run_id == run.info.run_id
    assert {"state_dict", "history", "summary.txt"} <= {file.path for file in client.list_artifacts(run.info.run_id)}
    assert kept(away) == []

    # Once more, as after a kill before the journal was deleted; and one whose state_dict was replaced meanwhile.
    before = len(runs(mlflow_server, "blobs", "blobs-linear"))
    shutil.copy(copy, journal)
    (away.folder / "models/blobs-linear/model.pt").write_bytes(b"of another training")
    journal.with_name("other.jsonl").write_text(copy.read_text().replace(header["key"], "0" * 32))
    journal.with_name("folder.jsonl").mkdir()
    foreign = journal.with_name("foreign.jsonl")
    foreign.write_text(
        json.dumps(header | {"key": "1" * 32, "dataset": "line"}) + '\n{"kind": "Begin", "params": null, "tags": {}}\n'
    )
    opened = away.run(
        "python", "-c", f"from tasks.tracking.delivery import prepare_store; prepare_store('{door.address}')"
    ).stdout
    assert f"the run in mlruns/undelivered/{foreign.name} cannot be delivered to MLflow now: " in opened
    foreign.unlink()
    journal.with_name("folder.jsonl").rmdir()
    assert kept(away) == []
    assert "models/blobs-linear/model.pt was replaced since it was trained" in opened
    assert len(runs(mlflow_server, "blobs", "blobs-linear")) == before + 1
    assert points(mlflow_server, run, "train/loss") == list(range(1, 101))
    assert len(points(mlflow_server, run, "train/seconds")) == 1


def test_a_flow_with_nothing_to_do_succeeds_without_its_tracking_server(away: Project, door: Door) -> None:
    door.close()
    said = away.run(*TRACKWAY, "run", "blobs", TRACKWAY_PATIENCE="1").stdout
    assert "7 stages: 0 run, 7 up to date" in said
    assert (
        f"the table is without champions and seconds, for MLflow could not be asked: MLflow at {door.address} " in said
    )
    assert "Traceback" not in said


def test_what_is_renamed_without_its_tracking_server_is_logged_there_later(
    away: Project, door: Door, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.close()
    told = away.run(*TRACKWAY, "rename", "blobs-linear", "blobs-line", check=False)
    assert told.returncode == 1
    assert (
        f"blobs-linear is blobs-line now, but not in MLflow: MLflow at {door.address} does not answer: " in told.stdout
    )
    door.open()
    log = away.run("dvc", "repro", "register@blobs").stdout
    assert "Running stage 'train" not in log
    champion = mlflow.MlflowClient(mlflow_server.address).get_model_version_by_alias("blobs", "champion")
    assert champion.tags[EXPERIMENT] == "blobs-line"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.address)  # set_tracking_uri would hold for later tests too
    mlflow.pytorch.load_model("models:/blobs@champion")


def test_the_writer_ends_when_asked_once_training_is_gone(away: Project, door: Door) -> None:
    door.close()
    with away.start("python", "-m", "tasks.train", "line-parameters", TRACKWAY_PATIENCE="600") as training:
        (writer,) = wait_until(lambda: away.processes("tasks.tracking"), 60)
        wait_until(lambda: kept(away) and '"status": "FINISHED"' in kept(away)[0].read_text(), 120)
        training.kill()
        training.wait()
        writer.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs([writer], timeout=30)
        assert not alive
    assert len(kept(away)) == 1
