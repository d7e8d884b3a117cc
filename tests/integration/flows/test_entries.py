"""Experiments and datasets that are taken out or renamed: the command, `dvc repro`, the table, the champion."""

from __future__ import annotations

import os
import signal

from tasks.params import load_params
from tests.integration.flows.test_cli import trackway
from tests.integration.flows.test_servers import LONG
from tests.integration.tasks.test_registry import champion
from tests.integration.tasks.test_tracking import runs
from tests.support.project import Project

LOAD = """
import sys, mlflow
mlflow.set_tracking_uri("sqlite:///mlruns/mlflow.db")
mlflow.pytorch.load_model(sys.argv[1])
"""
KILLED_BETWEEN_ITS_WRITES = """
import os
from flows.edits import entries
write = entries.write_atomically
def write_or_die(file, content):
    write(file, content) if file == entries.DVC_LOCK else os.kill(os.getpid(), 9)
entries.write_atomically = write_or_die
entries.rename("digits-cnn", "digits-conv")
"""
SCHEDULES = "  schedules:"
SCHEDULE = "    - {deployment: retrain, parameters: {dataset: line}, cron: 0 0 * * *}"


def reproduced(project: Project) -> set[str]:
    """The stages that `dvc repro` runs; afterwards all is up to date."""
    log = project.run("dvc", "repro").stdout
    assert "up to date" in project.run("dvc", "status").stdout
    return {line.split("'")[1] for line in log.splitlines() if line.startswith("Running stage")}


def outputs(project: Project, name: str) -> list[str]:
    folders = ("data", "models", "metrics", "plots")
    return [str(path) for folder in folders for path in (project.folder / folder).rglob(f"{name}*")]


def test_what_is_removed_leaves_nothing_and_comes_back_from_the_cache(finished: Project) -> None:
    """The champion's experiment, and a dataset with its only experiment."""
    finished.commit("results")
    before = finished.read("params.yaml")
    shown = trackway(finished, "remove", "digits-cnn")
    assert "taken out: experiments.digits-cnn, with models/digits-cnn, plots/history/digits-cnn.csv, metrics/" in shown
    shown = trackway(finished, "remove", "blobs", "--with-experiments")
    assert "taken out: datasets.blobs, experiments.blobs-linear, with data/raw/blobs, " in shown
    changes = finished.run("git", "diff", "--unified=0", "params.yaml").stdout
    assert not [line for line in changes.splitlines() if line.startswith("+ ")], "only lines of these were cut"
    assert [line for line in before.splitlines() if "#" in line] == [
        line for line in finished.read("params.yaml").splitlines() if "#" in line
    ]
    assert not [name for name in finished.lock["stages"] if "digits-cnn" in name or "blobs" in name]
    assert reproduced(finished) == {"group@experiments", "register@digits"}
    assert not outputs(finished, "digits-cnn") + [path for path in outputs(finished, "blobs") if path[-7:] != "s/blobs"]
    shown = trackway(finished, "results")
    assert "digits-cnn" not in shown
    assert "blobs" not in shown
    assert champion(finished)[1] == "digits-mlp"
    finished.python(LOAD, "models:/digits@champion")

    finished.run("git", "checkout", "params.yaml", "dvc.lock")
    finished.run("dvc", "checkout")
    assert "up to date" in finished.run("dvc", "status").stdout


def test_what_is_renamed_is_not_trained_again_and_stays_champion(finished: Project) -> None:
    before = finished.lock["stages"]
    assert finished.python(KILLED_BETWEEN_ITS_WRITES, check=False).returncode == -signal.SIGKILL
    assert "digits-conv" not in finished.read("params.yaml")
    trackway(finished, "rename", "digits-cnn", "digits-conv")
    finished.edit("params.yaml", SCHEDULES, f"{SCHEDULES}\n{SCHEDULE}")
    trackway(finished, "rename", "datasets.line", "straight")
    params = load_params(finished.folder / "params.yaml")
    assert list(params.datasets) == ["straight", "circles", "blobs", "digits"], "in its place"
    assert params.flow.schedules[0].parameters == {"dataset": "straight"}
    again = {"evaluate@digits-conv", "evaluate@line-linear", "evaluate@line-parameters"}
    assert reproduced(finished) == {"group@experiments", "register@digits", "register@straight", *again}
    after = finished.lock["stages"]
    for old, new in (("train@digits-cnn", "train@digits-conv"), ("transform@line", "transform@straight")):
        assert [out["md5"] for out in after[new]["outs"]] == [out["md5"] for out in before[old]["outs"]]
        assert old not in after
    assert not outputs(finished, "digits-cnn")
    assert "digits-cnn" not in (shown := trackway(finished, "results"))
    assert shown.count(" champion ") == 1 + len(params.datasets)
    assert champion(finished) == ("1", "digits-conv")
    assert champion(finished, "straight") == ("1", "line-linear")
    assert sorted(run.info.run_name for run in runs(finished, "digits")) == ["digits-conv", "digits-mlp"]
    for name in ("digits", "straight"):
        finished.python(LOAD, f"models:/{name}@champion")


def test_what_cannot_be_done_is_refused_with_nothing_changed(finished: Project) -> None:
    finished.edit("params.yaml", SCHEDULES, f"{SCHEDULES}\n{SCHEDULE}")
    finished.edit("params.yaml", *LONG)
    before = {file: finished.read(file) for file in ("params.yaml", "dvc.lock")}
    refused = {
        (
            "remove",
            "digits-cmn",
        ): "error: digits-cmn is neither an experiment nor a dataset; there are exp",
        ("remove", "line"): "datasets.line is used by line-parameters, line-linear; next: trackway rem",
        (
            "remove",
            "blobs-linear",
        ): "experiments.blobs-linear is the only one of blobs, and each dataset needs one; ",
        ("remove", "line", "--with-experiments"): "flow.schedules[0] in params.yaml names line; take it out there",
        ("rename", "digits-cnn", "digits-mlp"): "experiments.digits-mlp is already in params.yaml; choose another name",
        ("rename", "digits-cnn", "../up"): "the name '../up' must be a letter or digit, then letters, digits, - and _",
        ("rename", "digits-cnn", "0x1"): "the name '0x1' must be a letter or digit, then letters, digits, - and _",
    }
    for command, message in refused.items():
        assert message in trackway(finished, *command, check=False), command
    with finished.start("dvc", "repro", "--single-item", "train@digits-mlp") as training:
        try:
            assert training.stdout
            assert any("loading PyTorch" in line for line in training.stdout)
            shown = trackway(finished, "remove", "digits-cnn", check=False)
        finally:
            os.killpg(training.pid, signal.SIGKILL)
    assert "error: dvc repro or a flow is at work in this folder; wait until it has ended, then try again" in shown
    assert {file: finished.read(file) for file in before} == before


def test_a_schedule_follows_its_dataset_and_not_an_experiment_of_that_name(project: Project) -> None:
    nightly = "    - {deployment: pipeline, parameters: {targets: [blobs, train@blobs]}, cron: 0 1 * * *}"
    project.edit("params.yaml", SCHEDULES, f"{SCHEDULES}\n{SCHEDULE.replace('line', 'blobs')}\n{nightly}")
    trackway(project, "rename", "blobs-linear", "blobs")
    trackway(project, "rename", "experiments.blobs", "blobs-again")
    schedules = load_params(project.folder / "params.yaml").flow.schedules
    assert [schedule.parameters for schedule in schedules[:2]] == [
        {"dataset": "blobs"},
        {"targets": ["blobs", "train@blobs-again"]},
    ]
    trackway(project, "check")
