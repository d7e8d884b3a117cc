"""dvc.yaml against what the stages really do."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
from ruamel.yaml import YAML

from tasks.tracking.tags import DVC_EXPERIMENT
from tests.integration.tasks.test_tracking import LOAD_CHAMPION, runs
from tests.support.project import ROOT, TRACKWAY, Project, wait_until

# Code that a stage imports and does not depend on, and why a change of it cannot change what the stage writes.
PLUMBING = {
    "learn/errors.py": "messages",
    "tasks/params/": "reads and checks params.yaml, whose values are in dvc.lock; defaults stand in learn/",
    "tasks/card_parts.py": "a text for MLflow",
    "tasks/model_card.py": "a text for MLflow",
    "tasks/gpu.py": "a lock, and a message",
    "tasks/inputs.py": "checks",
    "tasks/kept.py": "files that an earlier training with the same inputs made",
    "tasks/lifeline.py": "when a process ends",
    "tasks/log_evaluation.py": "what MLflow is told",
    "tasks/memory.py": "streamed and resident inputs give the same bytes",
    "tasks/stage.py": "the command line",
    "tasks/torchrun.py": "in which processes a training runs",
    "tasks/tracking/": "what MLflow is told",
    "tasks/warm.py": "where a process runs",
    "tasks/workspace/": "paths, atomic files, locks, what a flow is told",
    "learn/latency.py": "a measurement for MLflow",
    "learn/plots.py": "pictures for MLflow",
    "learn/raw_inputs.py": "the form in which MLflow has a model",
    "tasks/figures.py": "pictures for MLflow",
}
# tasks/params/ knows the names in DATASETS, MODELS and METRICS, so every stage imports these lists and what they list:
# a new dataset or model must run nothing again, nor a new metric train anything.
FOR_NAMES_ONLY = (
    "learn/data/", "learn/models/", "learn/evaluation/metrics.py", "learn/training/defaults.py",
    "learn/comparison/defaults.py",
)  # fmt: skip
READ_ONLY = {"train": ("learn/data/transformed/",), "evaluate": ("learn/data/transformed/",)}  # as it was written

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
    imported = {file for file in imported if not file.endswith("__init__.py")}
    used = {dep for dep in _code(kind) if any(_lies_in(file, dep) for file in imported)}
    assert used == _code(kind), "a stage must not run again for code that it does not import"
    unlisted = {file for file in imported if not any(_lies_in(file, dep) for dep in _code(kind))}
    left = {file for file in unlisted if not file.startswith((*PLUMBING, *FOR_NAMES_ONLY, *READ_ONLY.get(kind, ())))}
    assert not left
    assert len(_code(kind)) <= 6


def _code(kind: str) -> set[str]:
    """The code among the deps of a kind of stage, of digits and digits-cnn."""
    names = {"${item.model.name}": "tiny_vgg", "${item.source.name}": "digits"}
    found = {dep.replace(old, new) for dep in _deps(kind) for old, new in names.items() if old in dep or "$" not in dep}
    return {dep for dep in found if dep.startswith(("learn/", "tasks/"))}


def _lies_in(file: str, dep: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


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
    assert left == {"digits-mlp.json", "digits-mlp.predictions.npz", "digits-mlp.report.json"}
    assert "up to date" in finished.run("dvc", "status").stdout
    finished.python(LOAD_CHAMPION)

    finished.edit(
        "params.yaml",
        "circles\n    model: {name: mlp, hidden_units: [5]",
        "blobs\n    model: {name: mlp, hidden_units: [5]",
    )
    finished.edit("params.yaml", "BCEWithLogitsLoss", "CrossEntropyLoss")
    log = finished.run(*TRACKWAY, "run", "register@circles").stdout
    assert "register circles: circles-relu stays champion" in log
    assert "circles-linear" not in finished.read("metrics/circles.csv")


COMMENT = ('"""', '"""New. ')  # in the first line of a file
# What is changed, in which file, and which stages it makes stale themselves; what these write decides on others.
CHANGES = {
    "a message": ("tasks/params/messages.py", *COMMENT, ""),
    "a comment in the schema": ("tasks/params/experiment.py", *COMMENT, ""),
    "a comment in what the stages share": ("tasks/stage.py", *COMMENT, ""),
    "tracking": ("tasks/tracking/delivery.py", *COMMENT, ""),
    "a figure": ("learn/plots.py", *COMMENT, ""),
    "a schedule": ("params.yaml", "  schedules:", "  schedules:\n    - {deployment: pipeline, interval: 600}", ""),
    "a new dataset": ("learn/data/datasets/__init__.py", *COMMENT, ""),
    "a new model": ("learn/models/__init__.py", *COMMENT, ""),
    "a new metric": ("learn/evaluation/metrics.py", *COMMENT, "evaluate register"),
    "a threshold of the photos' checks": ("tasks/photos.py", "NEAR = 4", "NEAR = 5", "transform"),
    "a changed dataset": ("learn/data/datasets/digits.py", *COMMENT, "download@digits split@digits transform@digits"),
    "a changed model": ("learn/models/tiny_vgg.py", *COMMENT, "train@digits-cnn evaluate@digits-cnn"),
    "a changed block": ("learn/models/blocks/activation.py", *COMMENT, "train evaluate"),
    "the loop": ("learn/training/loop.py", *COMMENT, "train evaluate"),
    "a default of training": ("learn/training/defaults.py", "RESEED = True", "RESEED = False", "train evaluate"),
    "a default of champions": ("learn/comparison/defaults.py", "MARGIN = 0.0", "MARGIN = 0.1", "register"),
    "a default of splits": ("learn/data/indices.py", "STRATIFY = False", "STRATIFY = True", "split"),
    "a default of transforms": (
        "learn/data/transformed/arrays.py",
        "RESIZE = CROP = MODE = BROKEN = None",
        "CROP = MODE = BROKEN = None\nRESIZE = 8",
        "transform",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_stale_what_it_can_change_and_no_more(finished: Project, change: str) -> None:
    file, old, new, stale = CHANGES[change]
    finished.edit(file, old, new)
    expected = {
        name for name in finished.lock["stages"] for word in stale.split() if word in (name, name.partition("@")[0])
    }
    status = json.loads(finished.run("dvc", "status", "--json").stdout)
    own = {name for name, why in status.items() if any(_is_code(reason) for reason in why)}
    assert own == expected


def _is_code(reason: object) -> bool:
    """Whether one of the reasons why a stage is stale is that its code changed."""
    changed = reason.get("changed deps", {}) if isinstance(reason, dict) else {}
    return any(path.startswith(("learn", "tasks")) for path in changed)


def test_a_threshold_of_the_checks_trains_nothing_again(finished: Project) -> None:
    """Nor does a changed test part, if there is a validation part: it is measured again."""
    finished.edit("tasks/photos.py", "NEAR = 4", "NEAR = 5")
    log = finished.run("dvc", "repro").stdout
    assert {line.split("'")[1].partition("@")[0] for line in log.splitlines() if line.startswith("Running")} == {
        "transform"
    }
    file = finished.folder / "data/transformed/digits/evaluation/test-inputs.npy"
    pictures = np.load(file)
    file.unlink()  # it may be a link into the cache
    np.save(file, pictures[::-1])
    status = json.loads(finished.run("dvc", "status", "--json", "train@digits-mlp", "evaluate@digits-mlp").stdout)
    assert "evaluate@digits-mlp" in status
    assert "train@digits-mlp" not in status


def test_every_default_that_shapes_results_stands_in_code_that_stages_depend_on() -> None:
    for file in ("experiment", "dataset"):
        tree = ast.parse((ROOT / f"tasks/params/{file}.py").read_text(encoding="utf-8"))
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("learn.")
            for alias in node.names
        }
        for node in ast.walk(tree):
            for field in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(field, ast.AnnAssign) and field.value and not isinstance(field.value, ast.Call):
                    assert isinstance(field.value, ast.Name), ast.unparse(field)
                    assert field.value.id in imported, ast.unparse(field)


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
    lr = "experiments.line-parameters.optimizer.lr"
    finished.run(*exp, f"{lr}=0.02", "--temp", "--name", "in-a-copy", check=True, **author)
    finished.run(*exp, f"{lr}=0.03", "--queue", "--name", "queued", check=True, **author)
    finished.run("dvc", "queue", "start", check=True, **author)
    wait_until(lambda: "Success" in finished.run("dvc", "queue", "status").stdout, 120)

    client = mlflow.MlflowClient(finished.tracking_uri)
    named = DVC_EXPERIMENT["DVC_EXP_NAME"]
    found = {run.data.tags[named]: run for run in runs(finished, "line") if named in run.data.tags}
    assert set(found) == {"in-a-copy", "queued"}
    for run in found.values():
        assert run.info.status == "FINISHED"
        assert run.data.tags[DVC_EXPERIMENT["DVC_EXP_BASELINE_REV"]] == head
        assert "optimizer" in Path(client.download_artifacts(run.info.run_id, "git.diff")).read_text()
        assert Path(client.download_artifacts(run.info.run_id, "state_dict/model.pt")).is_file()


def test_a_conflict_in_dvc_lock_is_settled_by_the_readme_s_commands(finished: Project) -> None:
    """Two branches, each with its own change and its own results; after the merge nothing is trained again."""
    author = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    finished.commit("results")
    main = finished.run("git", "rev-parse", "--abbrev-ref", "HEAD").stdout.strip()
    for branch, old, new in (("theirs", "lr: 0.003", "lr: 0.004"), (main, "hidden_units: [64]", "hidden_units: [48]")):
        finished.run("git", "checkout", "--quiet", *([] if branch == main else ["-b"]), branch)
        finished.run("dvc", "checkout")
        finished.edit("params.yaml", old, new)
        finished.run("dvc", "repro")
        finished.commit(branch)
    merged = finished.run("git", "merge", "theirs", check=False, **author).stdout
    assert "CONFLICT (content): Merge conflict in dvc.lock" in merged
    command = next(
        line for line in (ROOT / "README.md").read_text().splitlines() if "git checkout --ours dvc.lock" in line
    )
    log = finished.run("sh", "-c", command.partition("#")[0]).stdout
    ran = {line.split("'")[1] for line in log.splitlines() if line.startswith("Running stage")}
    assert ran <= {"group@experiments", "register@digits"}, "the cache has what both sides made"
    assert "up to date" in finished.run("dvc", "status").stdout
    finished.commit("merged")
