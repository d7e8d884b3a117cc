"""Runs and champions are found again, whoever answers for the store and whatever a user did on MLflow's page."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import mlflow
import pytest
import requests
from mlflow.exceptions import MlflowException
from PIL import Image

from flows.reports.lineage import lineage
from flows.reports.results import results
from learn.comparison.gate import judge
from learn.errors import TrackingError
from tasks.champion import promote, rollback
from tasks.params import Params, load_params
from tasks.predict import predict
from tasks.register import register
from tasks.tracking import by_hand, registry
from tasks.tracking.delivery import open_store
from tasks.tracking.names import Store
from tasks.tracking.rename import rename_dataset
from tasks.tracking.tags import CARD_FILE, EXPERIMENT, LATENCY, MOVE, REBUILT, REFUSED, STATE_DICT
from tasks.tracking.versions import champion_records
from tasks.workspace.report import STATE_DICT_KEY
from tests.integration.tasks.test_servers import Stopped, Writes
from tests.integration.tasks.test_tracking import run_of, runs
from tests.support.project import TRACKWAY, Project, Served


def champion(project: Project, dataset: str = "digits") -> tuple[str, str]:
    """The version and the experiment of a dataset's champion."""
    found = mlflow.MlflowClient(project.tracking_uri).get_model_version_by_alias(dataset, "champion")
    return str(found.version), found.tags[EXPERIMENT]


def test_experiments_with_the_same_bytes_have_a_run_each_and_one_is_champion(finished: Project) -> None:
    params = finished.read("params.yaml")
    start = params.index("  line-linear:")
    twin = params[start : params.index("\n\n", start)].replace("line-linear", "line-a")
    finished.edit("params.yaml", "  line-linear:", f"{twin}\n  line-linear:")
    measured = run_of(finished, "line-linear").data.metrics[LATENCY]
    finished.stage("train@line-a")
    finished.stage("evaluate@line-linear")
    found = {run.info.run_name: run for run in runs(finished, "line")}
    assert found["line-a"].data.tags[STATE_DICT] == found["line-linear"].data.tags[STATE_DICT]
    assert "test/mae" not in found["line-a"].data.metrics
    assert found["line-linear"].data.metrics[LATENCY] == measured, "it keeps the first measurement"
    finished.stage("evaluate@line-a")
    (run,) = (run for run in runs(finished, "line") if run.info.run_name == "line-a")
    assert "test/mae" in run.data.metrics
    assert len(run.outputs.model_outputs) == 1
    both = finished.stage("register@line").stdout
    assert "line-linear (version 1, test mae 0.0003) stays champion; line-a has 0.0003" in both
    shown = finished.run(*TRACKWAY, "results").stdout
    (line,) = (line for line in shown.splitlines() if line.split()[:1] == ["line"] and "champion" in line)
    assert "line-linear" in line


class Proxy(ThreadingHTTPServer):
    """Passes requests on to MLflow's server, but for those whose path has a word: these it refuses."""

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.server, self.word, self.status = server, "", 503


class Passing(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.word and self.server.word in self.path:
            return self._answer(self.server.status, b"<html>this is not MLflow</html>", "text/html")
        kind = {"Content-Type": self.headers.get("Content-Type", "application/json")}
        answer = requests.request(self.command, self.server.server + self.path, data=body, headers=kind, timeout=60)
        return self._answer(answer.status_code, answer.content, answer.headers["Content-Type"])

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxy_to(server: str) -> Iterator[Proxy]:
    with Proxy(server) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


def test_only_a_store_that_says_so_has_no_champion(finished: Project, served: Served) -> None:
    """Of a worse candidate, which wins nothing but a dataset without a champion."""
    measured = json.loads(finished.read("metrics/digits/digits-cnn.json"))
    measured["validation"]["accuracy"] = 0.1
    (finished.folder / "metrics/digits/digits-cnn.json").write_text(json.dumps(measured))
    with proxy_to(served.mlflow) as proxy:
        address = f"http://127.0.0.1:{proxy.server_port}"
        finished.edit("params.yaml", "tracking: sqlite:///mlruns/mlflow.db", f"tracking: {address}")
        for proxy.word, proxy.status in (("registered-models/", 503), ("registered-models/", 401), ("versions/", 503)):
            done = finished.stage("register@digits", check=False, TRACKWAY_PATIENCE="0")
            assert done.returncode == 1
            silent = f"error: MLflow at {address} does not answer: too many 503 error responses"
            assert (
                silent if proxy.status == 503 else f"error: the MLflow store {address} cannot be used: "
            ) in done.stdout
            assert ("is its password the right one?" in done.stdout) == (proxy.status == 401)
            assert "Traceback" not in done.stdout
        shown = finished.run(*TRACKWAY, "results", check=False)
        assert shown.returncode == 1
        assert f"for MLflow could not be asked: MLflow at {address} does not answer: too many 503" in shown.stdout
        assert not [line for line in shown.stdout.splitlines() if line.endswith(" champion")]
        proxy.word = ""
        log = finished.stage("register@digits").stdout
    assert re.search(r"digits-cnn \(version 1, validation accuracy 0\.9\d+\) stays champion; digits-mlp has 0", log)
    assert champion(served) == ("1", "digits-cnn")


def test_a_champion_that_does_not_load_is_named_and_replaced(finished: Project) -> None:
    """Its files were removed; then one was damaged so that only loading tells."""
    Image.new("L", (8, 8)).save(finished.folder / "photo.png")
    predict = (*TRACKWAY, "predict", "photo.png", "--model", "digits@champion")
    client = mlflow.MlflowClient(finished.tracking_uri)
    finished.run(*TRACKWAY, "results")  # after it the artifacts are known to be in this copy of the project
    (first,) = run_of(finished, "digits-cnn").outputs.model_outputs
    shutil.rmtree(finished.folder / "mlruns/artifacts/digits/models" / first.model_id)

    done = finished.run(*predict, check=False)
    assert done.returncode == 1
    why = "cannot be loaded: its file MLmodel is not in the artifact store"
    assert f"error: digits@champion is version 1 of digits, which {why}; next: trackway relog" in done.stdout
    log = finished.stage("register@digits").stdout
    assert "digits-cnn: its evaluation is added" in log
    assert "digits-cnn is champion (version 2, validation accuracy 0.9" in log
    assert f"register digits: the champion {why}" in log
    assert "; version 1 was, and cannot be loaded" in log
    with pytest.raises(MlflowException, match="not found"):
        client.get_logged_model(first.model_id)

    second = client.get_model_version("digits", "2").source.removeprefix("models:/")
    weights = finished.folder / "mlruns/artifacts/digits/models" / second / "artifacts/artifacts/model.pt2"
    weights.write_bytes(bytes(weights.stat().st_size))
    log = finished.run(*TRACKWAY, "relog").stdout
    assert "relog digits: the champion cannot be loaded and is logged again: " in log
    assert "relog digits-cnn: its evaluation is added" in log
    assert "relog digits-mlp: MLflow has its run" in log
    assert champion(finished) == ("3", "digits-cnn")
    assert "\nphoto.png: " in finished.run(*predict).stdout


def test_what_a_user_did_on_mlflow_s_page_is_mended_or_named(
    finished: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", finished.tracking_uri)  # MLflow looks there for a version's model
    client = mlflow.MlflowClient(finished.tracking_uri)
    experiment = client.get_experiment_by_name("line")
    client.delete_experiment(experiment.experiment_id)
    log = finished.stage("register@line").stdout
    assert "MLflow's experiment line had been deleted; it is restored, with its runs" in log
    assert "line-linear stays champion (version 1)" in log

    client.delete_run(run_of(finished, "line-linear").info.run_id)
    finished.stage("train@line-parameters")  # and DVC would restore its evaluation from its cache
    log = finished.stage("register@line").stdout
    assert "line-linear: rebuilt" in log
    assert "line-parameters: its evaluation is added" in log
    assert "line-linear stays champion (version 1)" in log
    found = [run for run in runs(finished, "line") if "test/mae" in run.data.metrics]
    assert sorted(run.info.run_name for run in found) == ["line-linear", "line-parameters", "line-parameters"]

    client.rename_registered_model("line", "mine")
    assert "line-linear is champion (version 1, test mae 0.0003)" in finished.stage("register@line").stdout

    (other,) = found[-1].outputs.model_outputs
    by_hand = client.create_model_version("line", f"models:/{other.model_id}")
    client.set_registered_model_alias("line", "champion", by_hand.version)
    log = finished.stage("register@line").stdout
    assert "version 2 stays champion: it was registered by hand and cannot be compared; to let line-linear be it" in log
    client.delete_registered_model_alias("line", "champion")
    assert "line-linear is champion (version 1, test mae 0.0003)" in finished.stage("register@line").stdout


def test_a_model_card_follows_the_decision_and_a_user_s_description_stays(finished: Project) -> None:
    """Also that of a version whose experiment was trained again since; and what has not changed is not written."""
    client = mlflow.MlflowClient(finished.tracking_uri)
    before = client.get_model_version("circles", "1")
    finished.stage("register@circles")
    after = client.get_model_version("circles", "1")
    assert (after.description, after.last_updated_timestamp) == (before.description, before.last_updated_timestamp)
    assert "\n## How to load it\n" in before.description

    old = card(finished, "1")
    said = re.findall(r"^## What decided\n\n(.*\n)", old, re.MULTILINE)[0]
    client.update_model_version("digits", "1", "mine")
    finished.run(*TRACKWAY, "promote", "digits", "digits-mlp", "--because", "*fast*")
    second = client.get_model_version("digits", "2")
    assert "chosen by hand: \\*fast\\*\n" in second.description
    assert card(finished, "2").endswith(f"\n{second.description}\n")
    report = finished.folder / "metrics/digits/digits-cnn.report.json"
    report.write_text(json.dumps(json.loads(report.read_bytes()) | {STATE_DICT_KEY: "0" * 64}))
    finished.run(*TRACKWAY, "rollback", "digits")
    assert client.get_model_version("digits", "1").description == "mine"
    again = "digits-cnn (version 1) is champion of digits again; version 2 was, and was rolled back\n"
    assert card(finished, "1") == old.replace(said, again)


def card(project: Project, version: str) -> str:
    client = mlflow.MlflowClient(project.tracking_uri)
    run = client.get_model_version("digits", version).run_id
    return Path(client.download_artifacts(run, CARD_FILE)).read_text(encoding="utf-8")


def aliases(client: mlflow.MlflowClient) -> tuple[str, str]:
    """The versions of digits that are champion and were it before."""
    of = client.get_registered_model("digits").aliases
    return str(of["champion"]), str(of["previous-champion"])


def in_this_process(project: Project) -> Params:
    """Its parameters; the store's address is absolute, for MLflow keeps the stores that a process has opened."""
    return load_params().model_copy(update={"tracking": project.tracking_uri})


def is_stopped(module: ModuleType, command: Callable[[], object], writes: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a command of a module is stopped after so many writes to MLflow."""

    @contextmanager
    def open_stopping(uri: str) -> Iterator[mlflow.MlflowClient]:
        with open_store(uri) as real:
            yield cast("mlflow.MlflowClient", Writes(real, writes))

    with monkeypatch.context() as patch:
        patch.setattr(module, "open_store", open_stopping)
        try:
            command()
        except Stopped:
            return True
    return False


def test_a_kill_between_two_writes_loses_no_champion(finished: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each single write of a promotion and of a rollback: the same command again ends right, and so does it."""
    monkeypatch.chdir(finished.folder)
    params, client = in_this_process(finished), mlflow.MlflowClient(finished.tracking_uri)
    promotion, back = partial(promote, params, "digits", "digits-cnn", "smaller"), partial(rollback, params, "digits")
    for command, again in ((promotion, promotion), (back, back), (promotion, back)):
        kept = set()
        for writes in count():
            promote(params, "digits", "digits-cnn", "first")
            promote(params, "digits", "digits-mlp", "second")
            assert aliases(client) == ("2", "1")
            if not is_stopped(by_hand, command, writes, monkeypatch):
                break
            assert aliases(client)[0] in ("1", "2")
            again()
            kept.add(aliases(client))
        assert writes > 3
        # A rollback takes a promotion back that was begun, or else the one before it.
        assert kept == ({("1", "2")} if command is again else {("1", "2"), ("2", "1")})


def test_a_champion_that_another_process_chose_meanwhile_is_judged_anew(
    finished: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracking server has no lock: two register stages of two people may read at once that there is no champion."""
    monkeypatch.chdir(finished.folder)
    params, client = in_this_process(finished), mlflow.MlflowClient(finished.tracking_uri)
    promote(params, "digits", "digits-mlp", "its version")
    better = client.get_registered_model("digits").aliases["previous-champion"]
    client.delete_registered_model_alias("digits", "champion")
    rivals = iter([better])

    def slowly(*arguments: Any) -> Any:
        decision = judge(*arguments)
        for version in rivals:
            client.set_registered_model_alias("digits", "champion", version)
        return decision

    monkeypatch.setattr(registry, "judge", slowly)
    assert f"stays champion (version {better})" in register(params, "digits").summary
    assert str(client.get_registered_model("digits").aliases["champion"]) == str(better)


def test_a_new_champion_is_told_although_its_registration_was_killed(
    finished: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each single write; the next register stage ends what was begun."""
    finished.edit(
        "params.yaml",
        "    champion: {metric: accuracy}\n\nexp",
        "    champion: {metric: accuracy, require: any}\n\nexp",
    )
    monkeypatch.chdir(finished.folder)
    params, client = in_this_process(finished), mlflow.MlflowClient(finished.tracking_uri)
    promote(params, "digits", "digits-mlp", "its version")
    client.delete_model_version_tag("digits", "2", REFUSED)
    for writes in count():
        client.set_registered_model_alias("digits", "champion", "2")
        client.set_registered_model_alias("digits", "previous-champion", "1")
        if not is_stopped(registry, partial(register, params, "digits"), writes, monkeypatch):
            break
        assert aliases(client) in {("2", "1"), ("1", "1"), ("1", "2")}
        assert register(params, "digits").champion.startswith("register digits: digits-cnn is champion (version 1")
        assert aliases(client) == ("1", "2")
        assert MOVE not in client.get_registered_model("digits").tags
    assert writes > 3


def test_projects_that_share_a_store_do_not_take_each_other_s_champions(
    finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clones with the same datasets and bytes; a run of one is trained, all others are rebuilt."""
    clone = Project(shutil.copytree(finished.folder, tmp_path / "clone", symlinks=True))
    uri = f"sqlite:///{tmp_path}/shared.db"
    for project, name in ((finished, "a"), (clone, "b")):
        project.edit("params.yaml", "tracking: sqlite:///mlruns/mlflow.db", f"tracking: {uri}\nproject: {name}")
    finished.stage("train@line-linear")
    for project in (finished, clone):
        log = project.stage("register@line").stdout
        assert "register line: line-linear is champion (version 1, test mae 0.0003)\n" in log
    client = mlflow.MlflowClient(uri)
    runs_in = {each.name: client.search_runs([each.experiment_id]) for each in client.search_experiments()}
    assert {name: len(found) for name, found in runs_in.items()} == {"Default": 0, "a.line": 2, "b.line": 2}
    assert [run.info.run_name for run in runs_in["a.line"] if REBUILT not in run.data.tags] == ["line-linear"]

    def asked(project: Project) -> tuple[str, float, list[str], str]:
        """Champion by the registry, what it predicts, the table's champion, and where a version comes from."""
        monkeypatch.chdir(project.folder)
        params = load_params()
        (record,) = champion_records(Store(uri, params.project), ["line", "digits"])
        (predicted,) = predict(params, "line@champion", ["0.5"]).rows
        return (
            record.experiment,
            float(predicted.value or 0),
            [row["experiment"] for row in results(params)[0] if row.get("champion")],
            lineage(params, "line@champion").partition("\n")[0],
        )

    before = asked(finished)
    assert before == asked(clone)
    assert before[0] == "line-linear"
    assert "line-parameters is champion" in promote(load_params(), "line", "line-parameters", "a try")
    assert asked(finished) == before
    experiment, _, champions, version = now = asked(clone)
    assert (experiment, champions) == ("line-parameters", ["line-parameters"])
    assert version == "version 2 of line (champion)"
    assert now[1] != before[1]
    assert "models:/b.line/2" in client.get_model_version_by_alias("b.line", "champion").description

    with pytest.raises(TrackingError, match=r"^b\.line@champion is no registered model; there is line@champion,"):
        predict(load_params(), "b.line@champion", ["0.5"])
    monkeypatch.chdir(finished.folder)
    with pytest.raises(TrackingError, match=r"^line has no champion before the present one"):
        rollback(load_params(), "line")
    rename_dataset(Store(uri, "a"), "line", "straight")
    assert {each.name for each in client.search_registered_models()} == {"a.straight", "b.line"}
