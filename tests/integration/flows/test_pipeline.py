"""The flow: the same graph as `dvc repro`, in parallel, watched by Prefect."""

from __future__ import annotations

import os
import re
import shutil
import time

import pytest
from filelock import FileLock
from ruamel.yaml import YAML

from tests.support.project import TRACKWAY, Project, Webhook, wait_until


def test_both_doors_give_the_same_lock(by_flow: Project, by_repro: Project) -> None:
    flow, repro = (YAML(typ="safe").load(project.read("dvc.lock")) for project in (by_flow, by_repro))
    assert flow == repro
    assert len(flow["stages"]) == 31


@pytest.mark.parametrize("door", ["by_flow", "by_repro"])
def test_nothing_has_changed_right_after(door: str, request: pytest.FixtureRequest) -> None:
    project = request.getfixturevalue(door)
    assert project.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert "Running stage" not in project.run("dvc", "repro", "--dry").stdout
    assert project.run("git", "status", "--porcelain").stdout.split() == ["??", "dvc.lock"]


def test_it_ends_with_the_comparison_and_the_next_steps(by_flow: Project) -> None:
    log = by_flow.read(".git/first-run.log")
    assert "31 stages: 31 run, 0 up to date" in log
    row = r"circles +circles-relu +151 +1,000 +0\.57440 +accuracy +– +86\.50% ±4\.7 +\d+\.\d +still improving +champion"
    assert re.search(row, log), log[-3000:]
    assert "trackway up (or make up) starts MLflow's and Prefect's pages" in log
    assert "edit params.yaml, then dvc repro" in log


def test_a_second_run_finds_everything_cached_and_keeps_to_its_core(finished: Project) -> None:
    core = str(min(os.sched_getaffinity(0)))
    log = finished.run("taskset", "--cpu-list", core, "python", "-m", "flows.cli", "run").stdout
    assert "31 stages, up to 1 at a time" in log
    assert "31 stages: 0 run, 31 up to date" in log
    assert log.count("Cached('up to date'") == 31


def test_a_flow_completes_what_mlflow_lacks_of_what_dvc_restored(finished: Project, by_flow: Project) -> None:
    """As after `make clean`: every stage is up to date or in DVC's cache."""
    for folder in ("mlruns", "metrics", "models", "plots"):
        shutil.rmtree(finished.folder / folder)
    log = finished.run(*TRACKWAY, "run", "line").stdout
    assert re.search(r"'pipeline: line' - Finished in state Completed\('\d+ stages: 1 run, \d+ up to date'\)", log)
    assert "register line: line-linear: rebuilt" in log
    assert "register line: line-linear is champion (version 1, test mae 0.0003)" in log
    assert re.search(r"line-linear .* champion +\n", log)
    assert finished.lock == by_flow.lock


def test_a_target_brings_what_it_needs_and_nothing_else(finished: Project) -> None:
    log = finished.run("python", "-m", "flows.cli", "run", "--force", "split@circles", "line-linear").stdout
    circles = {"download circles", "split circles"}
    line = {f"{kind} line" for kind in ("download", "split", "transform")}
    assert set(re.findall(r"Task run '([^']+)' - Finished in state Completed", log)) == {
        *circles,
        *line,
        "train line-linear",
        "evaluate line-linear",
    }


def test_in_a_large_graph_only_stages_with_work_have_a_task(finished: Project) -> None:
    finished.edit("flows/pipeline.py", "LARGE_GRAPH = 100", "LARGE_GRAPH = 30")
    finished.edit("params.yaml", "lr: 0.003", "lr: 0.004")
    log = finished.run("python", "-m", "flows.cli", "run").stdout
    assert "24 stages are up to date and need no task" in log  # what needs the group may have work
    ran = set(re.findall(r"Task run '([^']+)' - Finished in state Completed", log))
    assert ran == {"group experiments", "train digits-cnn", "evaluate digits-cnn", "register digits"}
    assert "Completed('31 stages: 4 run, 27 up to date')" in log
    assert "Task run 'split line'" not in log


FULL = """\
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "meta":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().__call__(x)

"""
RAISE_ON_DATA = """

def raise_on_data(x: torch.Tensor) -> None:
    if x.device.type != "meta":
        raise RuntimeError("this model is broken")
"""


def test_a_failed_stage_leaves_the_other_branches_running(finished: Project, webhook: Webhook) -> None:
    """A user's model that passes the trial with `meta` tensors and breaks on real ones; a loss that becomes NaN.

    And other test data for blobs, so that there is a new champion to tell of, and a new model of line that is worse.
    """
    model = finished.read("learn/models/mlp.py").replace("class MLP", "class Broken")
    model, computes = model.replace("outputs = ", "raise_on_data(x)\n        outputs = "), "outputs = self.layers(x)"
    assert f"raise_on_data(x)\n        {computes}" in model
    model += RAISE_ON_DATA
    (finished.folder / "learn/models/broken.py").write_text(model)
    finished.edit("learn/models/__init__.py", '    "line": Line,', '    "line": Line,\n    "broken": Broken,')
    finished.edit(
        "learn/models/__init__.py",
        "from learn.models.line",
        "from learn.models.broken import Broken\nfrom learn.models.line",
    )
    finished.edit("params.yaml", "model: {name: mlp, hidden_units: [64]", "model: {name: broken, hidden_units: [64]")
    finished.edit(
        "params.yaml",
        "epochs: 100\n    batch_size: full\n    seed: 42\n  line-linear",
        "epochs: 90\n    batch_size: full\n    seed: 42\n  line-linear",
    )
    finished.edit("params.yaml", "lr: 0.1}\n    epochs: 1000", "lr: 1.0e+30}\n    epochs: 1000")
    finished.edit("params.yaml", "cluster_std: 1.5, seed: 42", "cluster_std: 1.5, seed: 43")
    finished.edit("params.yaml", "notify: []", f'notify: ["{webhook.address}"]')
    done = finished.run("python", "-m", "flows.cli", "run", check=False)
    assert done.returncode == 1
    told = {message["title"]: message["message"] for message in webhook.told}
    titles = {"new champion", "no new champion", "pipeline: everything ended Failed"}
    assert set(told) == {f"Trackway: {title}" for title in titles}
    assert "blobs-linear is champion (version 2" in told["Trackway: new champion"]
    stays = r"register line: line-linear stays champion \(version 1\); its test mae is 0\.0003, "
    stays += r"that of the next, line-\w+, is 0\.\d+; judged for the first time: line-parameters"
    assert re.fullmatch(stays, told["Trackway: no new champion"])
    broke, was_nan = "'train digits-mlp' - RuntimeError: this model", "'train circles-relu' - error: epoch "
    assert (done.stdout.count(broke), done.stdout.count(was_nan)) == (2, 1), "the second would end the same way again"
    assert "train circles-relu' - Finished in state NotFiniteError" in done.stdout
    end = done.stdout[done.stdout.index("error: the flow ended Failed") :]
    why = r"^train@digits-mlp failed with exit code \d+: RuntimeError: this model is broken$"
    assert re.search(why, end, re.MULTILINE)
    assert done.stdout.count("Traceback") == 2, "once for each try"
    assert "NoneType: None" not in done.stdout
    assert re.search("^not run, for they need it: ", end, re.MULTILINE)
    assert {"evaluate@digits-mlp", "register@digits", "register@circles"} <= set(re.findall(r"[\w-]+@[\w-]+", end))
    status = finished.run("dvc", "status").stdout
    assert "train@line-parameters" not in status
    assert "evaluate@line-parameters" not in status
    assert "train@digits-mlp" in status


def test_a_stage_that_waits_is_not_timed_and_a_device_that_cannot_do_it_is_not_asked_again(finished: Project) -> None:
    """Somebody else works on a transform for longer than it may take; a model has not enough memory on this device."""
    finished.forget("transform@circles")
    finished.edit("params.yaml", "transform: 3600", "transform: 15")
    finished.edit("learn/models/tiny_vgg.py", "    def forward(self", FULL + "    def forward(self")
    with FileLock(finished.folder / ".dvc/tmp/stages/transform-circles.lock"):
        flow = finished.start("python", "-m", "flows.cli", "run", "transform@circles", "train@digits-cnn")
        assert flow.stdout
        log = ""
        while "another process is at work on this stage" not in log:
            log += (line := flow.stdout.readline())
            assert line, log
        waiting_since = time.monotonic()
        wait_until(lambda: time.monotonic() > waiting_since + 17, 60)
    log += flow.communicate(timeout=300)[0]
    assert "Task run 'transform circles' - Finished in state Completed" in log
    assert "train digits-cnn' - Finished in state DeviceError" in log
    assert log.count("'train digits-cnn' - error: train digits-cnn: for a batch of 32: cpu has not enough memory") == 1
    assert flow.returncode == 1


def test_bad_parameters_are_refused_before_prefect_starts(project: Project) -> None:
    project.edit("params.yaml", "lr: 0.01", "lr: -0.1")
    project.edit("params.yaml", "name: L1Loss", "name: L3Loss")
    for command in (
        ("python", "-m", "flows.cli", "run"),
        ("python", "-m", "flows.pipeline"),
        ("python", "-m", "tasks.download", "circles"),
        ("dvc", "repro"),
    ):
        done = project.run(*command, check=False)
        assert done.returncode != 0
        assert "error: experiments.line-parameters.optimizer.lr is -0.1; it must be > 0 (params.yaml)" in done.stdout
        assert "error: experiments.line-parameters.loss.name is L3Loss; it must be one of" in done.stdout
        assert "Traceback" not in done.stdout
        assert "temporary server" not in done.stdout
    assert not (project.folder / "data").exists()


def test_an_unknown_target_is_refused_with_a_near_one(finished: Project) -> None:
    done = finished.run("python", "-m", "flows.cli", "run", "digits-mpl", check=False)
    assert done.returncode == 1
    assert "error: target digits-mpl is no stage, dataset or experiment; did you mean digits-mlp?" in done.stdout
    assert "Traceback" not in done.stdout
    assert "temporary server" not in done.stdout
