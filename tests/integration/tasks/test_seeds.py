"""An experiment with several seeds: files, runs, the champion's model, and what trains again if the list changes."""

from __future__ import annotations

import json
import re

import mlflow
import numpy as np
import pytest
import torch
from mlflow.entities import Run

from learn.evaluation.predictions import read
from tasks.tracking.tags import LATENCY, LATENCY_P95, NOTE, PARENT, REBUILT, SEED, THROUGHPUT
from tests.support.project import TRACKWAY, Project

NAME = "blobs-linear"


def set_seeds(project: Project, seeds: str) -> None:
    """Replaces what the experiment says of its seeds."""
    before, start, after = project.read("params.yaml").partition(f"\n  {NAME}:")
    after = re.sub(r"\n    seeds?: .*", f"\n    {seeds}", after, count=1)
    (project.folder / "params.yaml").write_text(before + start + after, encoding="utf-8")


def content(project: Project, file: str) -> bytes:
    return (project.folder / "models" / NAME / file).read_bytes()


def runs(project: Project, store: str = "mlflow.db") -> tuple[list[Run], dict[str, Run]]:
    """The latest of the experiment's own runs, and below it seed → run."""
    client = mlflow.MlflowClient(f"sqlite:///{project.folder}/mlruns/{store}")
    (experiment,) = client.search_experiments(filter_string="name = 'blobs'")
    found = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])
    parents = [run for run in found if PARENT not in run.data.tags]
    below = {run.data.tags[SEED]: run for run in found if run.data.tags.get(PARENT) == parents[0].info.run_id}
    return parents, below


def test_each_seed_is_trained_once_and_has_a_run(finished: Project) -> None:
    alone = content(finished, "model.pt")
    client = mlflow.MlflowClient(finished.tracking_uri)
    described = client.search_experiments(filter_string="name = 'blobs'")[0]
    assert "accuracy on the test split decides" in described.tags[NOTE]
    client.set_experiment_tag(described.experiment_id, NOTE, "My own words")
    set_seeds(finished, "seeds: [43, 42]")
    said = finished.run("dvc", "repro", "register@blobs").stdout
    assert f"{NAME}, seed 42: kept" in said
    assert f"{NAME}, seed 43: epoch 1/100" in said
    assert content(finished, "seed-42/model.pt") == alone, "it was not trained again"
    second = content(finished, "seed-43/model.pt")

    row = json.loads(finished.read(f"metrics/blobs/{NAME}.json"))
    each = [row["seeds"][seed]["accuracy"] for seed in ("42", "43")]
    assert row["accuracy"] == pytest.approx(np.mean(each))
    assert row["sd"]["accuracy"] == pytest.approx(np.std(each, ddof=1))

    (parent, *_), below = runs(finished)
    assert parent.info.run_name == f"{NAME} seeds=[42, 43]", "what differs from its run before"
    assert parent.data.metrics["test/accuracy"] == row["accuracy"]
    assert parent.data.metrics["test/accuracy.sd"] == row["sd"]["accuracy"]
    assert {seed: run.info.run_name for seed, run in below.items()} == {s: f"{NAME} seed={s}" for s in ("42", "43")}
    assert {run.info.status for run in (parent, *below.values())} == {"FINISHED"}
    assert [below[seed].data.metrics["test/accuracy"] for seed in ("42", "43")] == each
    assert client.get_experiment(described.experiment_id).tags[NOTE] == "My own words"
    assert "| test accuracy |" in parent.data.tags[NOTE]
    curve = client.get_metric_history(below["43"].info.run_id, "train/loss")
    assert [point.step for point in curve] == list(range(1, 101))

    set_seeds(finished, "seed: 43")
    finished.stage(f"train@{NAME}")
    assert content(finished, "model.pt") == second, "the same bytes as alone"


def test_the_champion_is_the_seed_with_the_lowest_loss(finished: Project) -> None:
    set_seeds(finished, "seeds: [42, 43, 44]")
    mlflow.MlflowClient(finished.tracking_uri).delete_registered_model("blobs")
    finished.run("dvc", "repro", "register@blobs")
    losses = {
        seed: own["loss"] for seed, own in json.loads(finished.read(f"metrics/blobs/{NAME}.json"))["seeds"].items()
    }
    chosen = min(losses, key=lambda seed: losses[seed])
    mlflow.set_tracking_uri(finished.tracking_uri)
    model = mlflow.pytorch.load_model("models:/blobs@champion")
    inputs = torch.from_numpy(np.load(finished.folder / "data/transformed/blobs/training/test-inputs.npy"))
    answers = {key: values.detach().numpy() for key, values in model(inputs).items()}
    found = read(finished.folder / f"metrics/blobs/{NAME}.predictions.npz", "test")
    assert found
    assert found.predictions.shape == (3, len(inputs))
    assert (answers["prediction"] == found.predictions[list(losses).index(chosen)]).all()
    assert found.confidence is not None
    sure = found.confidence[list(losses).index(chosen)]
    np.testing.assert_allclose(sure, answers["probabilities"].max(axis=1), atol=1e-4)
    assert "(n=3)" in finished.run(*TRACKWAY, "results", COLUMNS="200").stdout


def test_a_list_that_changes_trains_what_is_new_and_a_forced_stage_trains_all(finished: Project) -> None:
    set_seeds(finished, "seeds: [42, 43]")
    finished.run("dvc", "repro", f"train@{NAME}")
    kept = content(finished, "seed-43/model.pt")
    set_seeds(finished, "seeds: [43, 44]")
    said = finished.run("dvc", "repro", f"train@{NAME}").stdout
    assert "seed 43: kept" in said
    assert "seed 44: epoch 1/100" in said
    set_seeds(finished, "seeds: [44, 43]")
    said = finished.run("dvc", "repro", f"train@{NAME}").stdout
    assert "seed 43: kept" in said
    assert "seed 44: kept" in said
    assert content(finished, "seed-43/model.pt") == kept
    assert not (finished.folder / "models" / NAME / "seed-42").exists()
    assert "kept" not in finished.run("dvc", "repro", "--force", "--single-item", f"train@{NAME}").stdout
    assert content(finished, "seed-43/model.pt") == kept, "the same bytes"
    set_seeds(finished, "seeds: [43, 44, 45]")
    finished.edit("params.yaml", "hidden_units: [8, 8]", "hidden_units: [9]")
    assert "kept" not in finished.run("dvc", "repro", f"train@{NAME}").stdout, "the model is another one"


def test_runs_of_seeds_are_rebuilt_and_renamed(finished: Project) -> None:
    set_seeds(finished, "seeds: [42, 43]")
    finished.run("dvc", "repro", "register@blobs")
    (parent, *_), below = runs(finished)
    finished.edit("params.yaml", "sqlite:///mlruns/mlflow.db", "sqlite:///mlruns/other.db")
    finished.run(*TRACKWAY, "relog")
    (again, *_), below_again = runs(finished, "other.db")
    assert set(below_again) == {"42", "43"}
    for old, new in [(parent, again), *((below[seed], below_again[seed]) for seed in below)]:
        late = {"train/seconds", "samples_per_second"}
        assert old.data.metrics.keys() - late == new.data.metrics.keys()
        measured = new.data.metrics.keys() - {LATENCY, LATENCY_P95, THROUGHPUT}
        assert {k: old.data.metrics[k] for k in measured} == {k: new.data.metrics[k] for k in measured}
        assert new.data.tags[REBUILT] == "true"
    assert "MLflow has its run" in finished.run(*TRACKWAY, "relog").stdout

    finished.run(*TRACKWAY, "rename", NAME, "blobs-many")
    (renamed, *_), below_renamed = runs(finished, "other.db")
    assert renamed.info.run_id == again.info.run_id
    assert {run.info.run_name for run in below_renamed.values()} == {"blobs-many seed=42", "blobs-many seed=43"}
    assert f"{NAME}" not in finished.run("dvc", "repro", "register@blobs").stdout, "nothing trains again"
