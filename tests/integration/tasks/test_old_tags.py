"""A finished project whose store has the names of tags of an earlier version of Trackway."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import mlflow

from tasks.tracking.old_tags import OLD_RUN, OLD_VERSION
from tasks.tracking.tags import JUDGED, NAMES, OURS
from tests.integration.tasks.test_tracking import runs
from tests.support.project import Project


def as_before(project: Project) -> None:
    """Gives tags their old names, by which an earlier version of Trackway wrote them."""
    with closing(sqlite3.connect(project.folder / "mlruns/mlflow.db")) as database, database:
        database.execute("DELETE FROM experiment_tags WHERE key = ?", [NAMES])
        database.execute("DELETE FROM tags WHERE key = ?", [JUDGED])
        for table, names in {"tags": OLD_RUN, "model_version_tags": OLD_VERSION}.items():
            for name in names:
                like = f"{OURS}{name}%" if name.endswith((".", "/")) else OURS + name
                database.execute(f"UPDATE {table} SET key = substr(key, ?) WHERE key LIKE ?", [len(OURS) + 1, like])


def tags(project: Project, dataset: str) -> list[dict[str, str]]:
    """Those of all runs and registered versions of a dataset."""
    versions = mlflow.MlflowClient(project.tracking_uri).search_model_versions(f"name = '{dataset}'")
    return [each.data.tags for each in runs(project, dataset)] + [each.tags for each in versions]


def test_a_store_of_an_earlier_version_keeps_its_runs_and_champions(finished: Project) -> None:
    """Also those of a dataset whose experiment was deleted on MLflow's page meanwhile."""
    before = {dataset: tags(finished, dataset) for dataset in ("digits", "line")}
    as_before(finished)
    assert "dvc.stage" in tags(finished, "digits")[0]
    client = mlflow.MlflowClient(finished.tracking_uri)
    line = client.get_experiment_by_name("line").experiment_id
    client.delete_experiment(line)
    for dataset, champion in {"digits": "digits-cnn", "line": "line-linear"}.items():
        log = finished.stage(f"register@{dataset}").stdout
        assert f"{champion} stays champion (version 1)" in log
        assert "rebuilt" not in log
        assert tags(finished, dataset) == before[dataset]
    assert "up to date" in finished.run("dvc", "status").stdout
