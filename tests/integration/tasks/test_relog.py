"""Runs rebuilt from DVC's outputs, against those that were written while training."""

from __future__ import annotations

import shutil
from collections import Counter

import mlflow

from tasks.tracking.report import PAGE, RECORD
from tasks.tracking.tags import (
    CARD,
    CODE_MD5,
    DATA_MD5,
    FLOW_RUN_ID,
    LATENCY,
    LATENCY_P95,
    OURS,
    REBUILT,
    STAGE,
    STATE_DICT,
    TEST_DATA,
    THROUGHPUT,
)
from tests.integration.tasks.test_tracking import artifacts, run_of, runs
from tests.support.project import Project, shipped

PARAMS = shipped()
TRAINING_KNOWS = {"train/seconds", "samples_per_second"}
MEASURED_ANEW = {LATENCY, LATENCY_P95, THROUGHPUT}
SAME_TAGS = {STATE_DICT, TEST_DATA, STAGE, DATA_MD5, CODE_MD5}


def relog(project: Project) -> list[str]:
    done = project.run("python", "-m", "flows.cli", "relog")
    assert "Traceback" not in done.stdout
    return [line.removeprefix("relog ") for line in done.stdout.splitlines() if line.startswith("relog ")]


def curves(project: Project, name: str) -> dict[str, list[tuple[int, float]]]:
    """Metric → its points, but for what only a training knows, and for what no two measurements agree on."""
    client, run = mlflow.MlflowClient(project.tracking_uri), run_of(project, name)
    keys = set(run.data.metrics) - TRAINING_KNOWS - MEASURED_ANEW
    points = {key: client.get_metric_history(run.info.run_id, key) for key in keys}
    return {key: sorted((point.step, point.value) for point in history) for key, history in points.items()}


def test_relog_rebuilds_every_run_and_champion_of_a_deleted_store(finished: Project, by_flow: Project) -> None:
    shutil.rmtree(finished.folder / "mlruns")
    assert Counter(line.partition(": ")[2] for line in relog(finished))["rebuilt"] == len(PARAMS.experiments)
    for name in PARAMS.experiments:
        old, new = run_of(by_flow, name), run_of(finished, name)
        assert new.info.status == "FINISHED"
        assert new.data.params == old.data.params | {"device": "auto"}  # which device that was, no output says
        assert curves(finished, name) == curves(by_flow, name)
        assert set(old.data.metrics) - set(new.data.metrics) == TRAINING_KNOWS
        assert {tag: new.data.tags[tag] for tag in SAME_TAGS} == {tag: old.data.tags[tag] for tag in SAME_TAGS}
        assert new.data.tags[REBUILT] == "true"
        unknown = (f"{OURS}version.", "mlflow.source.git", FLOW_RUN_ID)
        assert not [tag for tag in new.data.tags if tag.startswith(unknown)]
        assert new.inputs.dataset_inputs[0].dataset.digest == old.data.tags[DATA_MD5]
        assert artifacts(finished, new) == artifacts(by_flow, old) - {PAGE, RECORD}, "the next flow logs the page"
    clients = [mlflow.MlflowClient(project.tracking_uri) for project in (finished, by_flow)]
    for dataset in PARAMS.datasets:
        new, old = (client.get_model_version_by_alias(dataset, "champion") for client in clients)
        assert new.tags.keys() == old.tags.keys()
        assert {**new.tags, CARD: ""} == {**old.tags, CARD: ""}
        assert new.description == old.description.partition("\n\nThe code is that of git's commit ")[0]
    finished.run(
        "python",
        "-c",
        "import mlflow; mlflow.set_tracking_uri('sqlite:///mlruns/mlflow.db'); "
        "mlflow.pytorch.load_model('models:/digits@champion')",
    )

    again = relog(finished)
    assert Counter(line.partition(": ")[2] for line in again)["MLflow has its run"] == len(PARAMS.experiments)
    assert any(
        line.startswith("digits: digits-cnn stays champion (version 1); its validation accuracy") for line in again
    )
    assert sum(len(runs(finished, dataset)) for dataset in PARAMS.datasets) == len(PARAMS.experiments)
    assert len(clients[0].search_model_versions()) == len(PARAMS.datasets)
    assert "up to date" in finished.run("dvc", "status").stdout
    shown = finished.run("python", "-m", "flows.cli", "results").stdout
    assert shown.count(" champion ") == 1 + len(PARAMS.datasets)


def test_relog_in_a_clone_leaves_out_what_is_not_there_or_not_up_to_date(finished: Project) -> None:
    finished.commit("results")
    clone = Project(finished.folder.with_name("clone"))
    finished.run("git", "clone", "--quiet", ".", str(clone.folder))
    clone.run("dvc", "cache", "dir", "--local", str(finished.folder / ".dvc/cache"))
    clone.run("dvc", "checkout")
    shutil.rmtree(clone.folder / "models/line-linear")
    clone.edit("params.yaml", "lr: 0.003", "lr: 0.004")
    assert relog(clone) == [
        "line-parameters: rebuilt",
        "line-linear: left out, models/line-linear is not there; next: dvc repro evaluate@line-linear",
        "circles-linear: rebuilt",
        "circles-relu: rebuilt",
        "blobs-linear: rebuilt",
        "digits-mlp: rebuilt",
        "digits-cnn: left out, train@digits-cnn is not up to date; next: dvc repro evaluate@digits-cnn",
        "line: no champion without all its experiments; next: dvc repro register@line",
        "circles: circles-relu is champion (version 1, test accuracy 0.8650)",
        "blobs: blobs-linear is champion (version 1, test accuracy 0.9950)",
        "digits: no champion without all its experiments; next: dvc repro register@digits",
    ]
    assert [run.info.run_name for run in runs(clone, "digits")] == ["digits-mlp"]

    clone.run("dvc", "repro", "evaluate@line-linear")
    assert "line-linear: rebuilt" in (lines := relog(clone))
    assert "line: line-linear is champion (version 1, test mae 0.0003)" in lines


def test_relog_completes_a_run_that_was_never_evaluated(finished: Project) -> None:
    shutil.rmtree(finished.folder / "mlruns")
    finished.stage("train@digits-mlp")
    lines = relog(finished)
    assert "digits-mlp: its evaluation is added" in lines
    assert "digits-cnn: rebuilt" in lines
    assert "train/seconds" in (metrics := run_of(finished, "digits-mlp").data.metrics)
    assert "test/accuracy" in metrics


def test_relog_without_a_store_says_so(project: Project) -> None:
    project.edit("params.yaml", "tracking: sqlite:///mlruns/mlflow.db", "tracking: null")
    done = project.run("python", "-m", "flows.cli", "relog", check=False)
    assert done.returncode == 1
    assert "error: tracking is null in params.yaml: name the store there" in done.stdout
    assert "Traceback" not in done.stdout
