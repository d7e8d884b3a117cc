"""dvc.yaml against what the stages really do."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT, TRACKWAY, Project, wait_until
from tests.tasks.test_tracking import LOAD_CHAMPION, runs

# Code that a stage imports and that cannot change its outputs: messages, locks, tracking, pictures for MLflow, the list
# of models (each model's own file is a dep), and checks, which stop a stage or let it pass.
NO_MATTER = {
    "learn/errors.py", "learn/checks.py", "learn/trial.py", "learn/plots.py", "learn/models/__init__.py",
    "tasks/address.py", "tasks/git.py", "tasks/gpu.py", "tasks/inputs.py", "tasks/journal.py", "tasks/lifeline.py",
    "tasks/tracking.py", "tasks/warm.py",
}  # fmt: skip

# learn/params.py knows the names in DATASETS and METRICS, so every stage imports both; these stages use them for
# nothing else: a new dataset must not train anything again, nor a new metric.
FOR_NAMES_ONLY = {
    "download": {"learn/metrics.py"},
    "split": {"learn/metrics.py"},
    "transform": {"learn/metrics.py"},
    "train": {"learn/datasets.py", "learn/metrics.py", "learn/photos.py"},
    "evaluate": {"learn/datasets.py", "learn/photos.py"},
    "register": {"learn/datasets.py", "learn/photos.py"},
    "group": {"learn/datasets.py", "learn/metrics.py", "learn/photos.py"},
}

TRACE = """
import atexit, json, runpy, sys
from pathlib import Path
kind, name = sys.argv.pop(1), sys.argv[-1]

def report():
    here = Path.cwd()
    files = {Path(m.__file__) for m in list(sys.modules.values()) if getattr(m, "__file__", None)}
    mine = {str(f.relative_to(here)) for f in files if f.is_relative_to(here) and ".venv" not in f.parts}
    Path("imports.json").write_text(json.dumps(sorted(mine)))

atexit.register(report)
runpy.run_module("tasks." + kind, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("download", "digits"),
        ("split", "digits"),
        ("transform", "digits"),
        ("train", "digits-cnn"),
        ("evaluate", "digits-cnn"),
        ("register", "digits"),
        ("group", "experiments"),
    ],
)
def test_a_stage_lists_the_code_that_it_runs_and_no_other(finished: Project, kind: str, name: str) -> None:
    finished.run("python", "-c", TRACE, kind, name)
    imported = set(json.loads(finished.read("imports.json"))) | {f"tasks/{kind}.py"}
    models = {f for f in imported if f.startswith("learn/models/") and not f.endswith("tiny_vgg.py")}
    packages = {f for f in imported if f.endswith("__init__.py")}
    listed = {dep.replace("${item.model.name}", "tiny_vgg") for dep in _deps(kind) if dep.endswith(".py")}
    assert listed == imported - models - packages - NO_MATTER - FOR_NAMES_ONLY[kind]


def _deps(kind: str) -> list[str]:
    return YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][kind]["do"]["deps"]


def test_the_graph_is_six_kinds_of_stages_and_the_list_of_experiments(by_flow: Project) -> None:
    listed = by_flow.run("dvc", "stage", "list", "--name-only").stdout.split()
    assert len(listed) == 4 * 4 + 2 * 7 + 1
    assert {name.partition("@")[0] for name in listed} == {
        "download", "split", "transform", "train", "evaluate", "register", "group",
    }  # fmt: skip


def test_a_changed_learning_rate_makes_just_its_own_stages_run_again(finished: Project) -> None:
    before = {file: file.read_bytes() for file in (finished.folder / "metrics").rglob("*.json")}
    finished.edit("params.yaml", "lr: 0.003", "lr: 0.004")
    log = finished.run("dvc", "repro").stdout
    ran = [line.split("'")[1] for line in log.splitlines() if line.startswith("Running stage")]
    assert ran == ["group@experiments", "train@digits-cnn", "evaluate@digits-cnn", "register@digits"]
    changed = {file.name for file, content in before.items() if file.read_bytes() != content}
    assert changed == {"digits-cnn.json", "digits-cnn.report.json"}
    assert "up to date" in finished.run("dvc", "repro").stdout

    finished.run("git", "add", "dvc.lock", check=False)
    shown = finished.run("dvc", "params", "diff").stdout
    assert "experiments.digits-cnn.optimizer.lr" in shown
    assert "0.004" in shown


def test_an_experiment_that_is_gone_leaves_the_comparison_and_the_championship(finished: Project) -> None:
    """Removed, for `dvc repro`; then moved to another dataset, for the flow."""
    text = finished.read("params.yaml")
    (finished.folder / "params.yaml").write_text(text[: text.index("  digits-cnn:")])
    log = finished.run("dvc", "repro").stdout
    ran = [line.split("'")[1] for line in log.splitlines() if line.startswith("Running stage")]
    assert ran == ["group@experiments", "register@digits"]
    assert "register digits: digits-mlp is champion (version 2, validation accuracy 0.9" in log
    assert "; digits-cnn (version 1) was, and is no experiment of digits any more" in log
    assert [line.partition(",")[0] for line in finished.read("metrics/digits.csv").splitlines()] == [
        "experiment",
        "digits-mlp",
    ]
    left = {file.name for file in (finished.folder / "metrics/digits").iterdir()}
    assert left == {"digits-mlp.json", "digits-mlp.report.json"}
    assert "up to date" in finished.run("dvc", "status").stdout
    finished.run("python", "-c", LOAD_CHAMPION)

    finished.edit(
        "params.yaml",
        "circles\n    model: {name: mlp, hidden_units: [5]",
        "blobs\n    model: {name: mlp, hidden_units: [5]",
    )
    finished.edit("params.yaml", "BCEWithLogitsLoss", "CrossEntropyLoss")
    log = finished.run(*TRACKWAY, "run", "register@circles").stdout
    assert "register circles: circles-relu stays champion" in log
    assert "circles-linear" not in finished.read("metrics/circles.csv")


def test_code_that_cannot_matter_makes_nothing_run_again(finished: Project) -> None:
    """A new model is a new file and an entry in MODELS; pictures and tracking are not among DVC's outputs."""
    (finished.folder / "learn/models/new.py").write_text("# a new model\n")
    for file in ("learn/models/__init__.py", "learn/plots.py", "tasks/tracking.py"):
        finished.edit(file, '"""', '"""New. ')
    assert "up to date" in finished.run("dvc", "status").stdout
    finished.edit("learn/loop.py", '"""', '"""New. ')
    status = finished.run("dvc", "status").stdout
    assert "train@digits-mlp" in status
    assert "transform@digits" not in status


def test_dvc_s_commands_work_as_its_users_expect(finished: Project) -> None:
    author = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    finished.run("git", "add", "dvc.lock")
    finished.run("git", *author, "commit", "--quiet", "--message", "first results")
    assert finished.run("git", "status", "--porcelain").stdout == ""

    log = finished.run("dvc", "exp", "run", "-S", "experiments.digits-mlp.optimizer.lr=0.05").stdout
    ran = [line.split("'")[1] for line in log.splitlines() if line.startswith("Running stage")]
    assert ran == ["group@experiments", "train@digits-mlp", "evaluate@digits-mlp", "register@digits"], log
    shown = json.loads(finished.run("dvc", "metrics", "diff", "--json").stdout)
    assert set(shown) == {"metrics/digits/digits-mlp.json"}
    assert "loss" in shown["metrics/digits/digits-mlp.json"]
    params = json.loads(finished.run("dvc", "params", "diff", "--json").stdout)
    assert params["params.yaml"]["experiments.digits-mlp.optimizer.lr"] == {"old": 0.1, "new": 0.05, "diff": -0.05}

    shown_plots = finished.run("dvc", "plots", "show", "-o", "dvc_plots").stdout
    assert "index.html" in shown_plots
    page = finished.read("dvc_plots/index.html")
    for name in ("plots_history_digits-mlp_csv", "plots_predictions_digits-mlp_csv"):
        assert name in page
    assert finished.run("git", "status", "--porcelain").stdout.split() == ["M", "dvc.lock", "M", "params.yaml"]


def test_experiments_that_dvc_runs_in_a_copy_reach_the_project_s_store(finished: Project) -> None:
    author = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    finished.commit("results")
    head = finished.run("git", "rev-parse", "HEAD").stdout.strip()
    exp = ("dvc", "exp", "run", "train@line-parameters", "-S")
    finished.run(*exp, "experiments.line-parameters.optimizer.lr=0.02", "--temp", "--name", "in-a-copy", **author)
    finished.run(*exp, "experiments.line-parameters.optimizer.lr=0.03", "--queue", "--name", "queued", **author)
    finished.run("dvc", "queue", "start", **author)
    wait_until(lambda: "Success" in finished.run("dvc", "queue", "status").stdout, 120)

    client = mlflow.MlflowClient(finished.tracking_uri)
    found = {run.data.tags["dvc.exp.name"]: run for run in runs(finished, "line") if "dvc.exp.name" in run.data.tags}
    assert set(found) == {"in-a-copy", "queued"}
    for run in found.values():
        assert run.info.status == "FINISHED"
        assert run.data.tags["dvc.exp.baseline_rev"] == head
        assert "optimizer" in Path(client.download_artifacts(run.info.run_id, "git.diff")).read_text()
        assert Path(client.download_artifacts(run.info.run_id, "state_dict/model.pt")).is_file()
