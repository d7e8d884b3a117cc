"""A sweep: killed and gone on with, in MLflow, written into params.yaml, and made again by `dvc repro`."""

from __future__ import annotations

import os
import re
import signal
from hashlib import sha256

import mlflow

from tasks.tracking.tags import PARENT, STATE_DICT, SWEEP, TRIAL
from tests.integration.flows.test_cli import trackway
from tests.support.project import TRACKWAY, Project, wait_until

SPACES = (
    "-S",
    "optimizer.lr=loguniform(1e-3,1000)",
    "-S",
    "model.hidden_units=[[16], [32]]",
    "-S",
    "fraction=[0.2, 0.5]",
)
COMMAND = ("sweep", "digits-mlp", *SPACES, "--trials", "4", "--prune")


def test_a_sweep_survives_a_kill_and_dvc_repro_gives_its_best_state_dict(finished: Project) -> None:
    finished.edit("params.yaml", "epochs: 30", "epochs: 4")
    with finished.start(*TRACKWAY, *COMMAND) as killed:
        assert killed.stdout
        assert any("trial 0, fraction: 0." in line for line in killed.stdout)
        os.kill(killed.pid, signal.SIGKILL)
    wait_until(lambda: not finished.processes("tasks.sweep.worker"), 10)

    shown = trackway(finished, *COMMAND)
    assert "have ended before; " in shown
    assert "next: trackway sweep digits-mlp --apply (trial " in shown
    again = trackway(finished, *COMMAND)
    assert "4 trials have ended before; 0 to go" in again

    client = mlflow.MlflowClient(finished.tracking_uri)
    experiment = client.get_experiment_by_name("digits")
    assert experiment
    found = [run for run in client.search_runs([experiment.experiment_id]) if SWEEP in run.data.tags]
    (parent,) = (run for run in found if TRIAL not in run.data.tags)
    children = [run for run in found if TRIAL in run.data.tags]
    assert parent.info.run_name == "digits-mlp sweep"
    assert parent.info.status == "FINISHED"
    assert {artifact.path for artifact in client.list_artifacts(parent.info.run_id, "figures")} == {
        f"figures/{name}.png" for name in ("optimization_history", "parallel_coordinates", "parameter_importance")
    }
    assert len(children) == 4
    assert {(run.data.params["fraction"], run.data.params["samples"]) for run in children} <= {
        ("0.2", "251"),
        ("0.5", "628"),
    }
    assert {run.data.tags[PARENT] for run in children} == {parent.info.run_id}
    best = max(
        (run for run in children if run.data.tags[TRIAL] == "complete"),
        key=lambda run: (run.data.metrics["validation/accuracy"], -int(run.data.params["parameters"])),
    )
    assert parent.data.metrics["validation/accuracy"] == best.data.metrics["validation/accuracy"]
    curve = client.get_metric_history(best.info.run_id, "validation/loss")
    assert [point.step for point in curve] == [1, 2, 3, 4]

    assert "4 trials" in trackway(finished, "sweep", "digits-mlp")
    compared = trackway(finished, "compare", "--sweep", "digits-mlp")
    accuracy = f"{best.data.metrics['validation/accuracy']:.2%}"
    assert re.search(rf"^ +\d+ .* {accuracy} +4 +complete +best *$", compared, re.MULTILINE), compared
    trackway(finished, "compare", "--sweep", "--out", "sweep.md")
    assert re.search(rf"^\| \d+ \|.* {accuracy} \| 4 \| complete \| best \|$", finished.read("sweep.md"), re.MULTILINE)
    assert "error: --out is sweep.html; with --sweep its name must end in .md" in trackway(
        finished, "compare", "--sweep", "--out", "sweep.html", check=False
    )
    applied = trackway(finished, "sweep", "digits-mlp", "--apply")
    assert f"optimizer.lr: {best.data.params['optimizer.lr']}\nnext: dvc repro" in applied
    finished.run("dvc", "repro", "train@digits-mlp")
    state_dict = (finished.folder / "models/digits-mlp/model.pt").read_bytes()
    assert sha256(state_dict).hexdigest() == best.data.tags[STATE_DICT]
    trackway(finished, "rename", "digits-mlp", "digits-tuned")
    names = [client.get_run(run.info.run_id).info.run_name for run in found]
    assert "digits-tuned sweep" in names
    assert all(name.startswith("digits-tuned ") for name in names)


def test_a_sweep_says_what_is_missing_and_which_part_chooses(finished: Project) -> None:
    """On a dataset without a validation part, without MLflow, and with trials that diverge."""
    shown = trackway(finished, "sweep", "line-linear", check=False)
    assert "error: there is no sweep of line-linear yet; next: trackway sweep line-linear -S 'optimizer.lr=" in shown
    finished.edit("params.yaml", "tracking: sqlite:///mlruns/mlflow.db", "tracking: null")
    finished.edit("params.yaml", "step: 0.02", "step: 0.04")
    spaces = ("-S", "optimizer.lr=[1e+38, 0.01]", "-S", "epochs=int(1,3)")
    shown = trackway(finished, "sweep", "line-linear", *spaces, check=False)
    assert "error: download@line, split@line, transform@line must run first; next: dvc repro transform@line" in shown
    finished.edit("params.yaml", "step: 0.04", "step: 0.02")
    shown = trackway(finished, "sweep", "line-linear", *spaces, "--trials", "6", "--workers", "2")
    assert "warning: without a validation part the test part chooses the best trial" in shown
    assert "1e+38: diverged" in shown
    assert "diverged)" in shown
