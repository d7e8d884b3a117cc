"""Stages on a real Ray cluster of three nodes, which share nothing but the network: an S3 store and MLflow's server."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from tasks.tracking import tags
from tests.support.postgres import PASSWORD, Postgres
from tests.support.project import TRACKWAY, Project, make_project, wait_until
from tests.support.ray_cluster import RUN, RayNodes, ray_nodes, stages_on, warm_on
from tests.support.team import Team, files_with, team

NODES = (1, 2, 3)
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def servers(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with team(tmp_path_factory.mktemp("team"), postgres, ("s3", "mlflow")) as running:
        yield running


@pytest.fixture(scope="module")
def nodes(servers: Team, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    folder = tmp_path_factory.mktemp("ray") / "nodes"
    with pytest.MonkeyPatch.context() as patch, ray_nodes(folder, len(NODES)) as running:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


def runs(servers: Team, dataset: str) -> list[Run]:
    client = mlflow.MlflowClient(servers.tracking)
    found = client.get_experiment_by_name(dataset)
    return list(client.search_runs([found.experiment_id])) if found else []


def test_the_whole_pipeline_equals_a_local_one_though_a_node_dies(
    servers: Team, nodes: RayNodes, by_flow: Project, tmp_path: Path
) -> None:
    """Meanwhile another person's flow is on the same nodes."""
    first, second = servers.new_project(tmp_path / "first"), servers.new_project(tmp_path / "second")
    second.edit("params.yaml", "lr: 0.01", "lr: 0.02")
    with ThreadPoolExecutor() as flows:
        command, on = shlex.split(RUN)[1:-1], nodes.address
        assert command == ["run", "--on"]
        whole = flows.submit(first.run, *TRACKWAY, *command, on, check=False)
        part = flows.submit(second.run, *TRACKWAY, "run", "line", "--on", nodes.address)

        def training() -> int | None:
            assert not whole.done(), whole.result().stdout
            return next((n for n in NODES if stages_on(nodes.work(n), "tasks.train train@digits")), None)

        nodes.kill(busy := wait_until(training, 300))
        text, other = whole.result().stdout, part.result().stdout
    assert whole.result().returncode == 0, text
    assert "NodeLost" in text
    assert first.lock == by_flow.lock
    assert second.lock["stages"]["download@line"] == by_flow.lock["stages"]["download@line"]
    assert second.lock["stages"]["train@line-parameters"] != by_flow.lock["stages"]["train@line-parameters"]
    assert "Data and pipelines are up to date." in first.run("dvc", "repro").stdout
    assert "digits-cnn" in first.run(*TRACKWAY, "results").stdout
    assert wait_until(lambda: not stages_on(nodes.work(busy), "tasks."), 60), "what ran there has ended"

    commit = first.run("git", "rev-parse", "HEAD").stdout.strip()
    ended = [run for run in runs(servers, "digits") if run.info.status == "FINISHED"]
    assert len(ended) == len({experiment for experiment in first.lock["stages"] if "train@digits" in experiment})
    assert {run.data.tags[tags.COMMIT] for run in ended} == {commit}
    assert {run.data.tags[tags.RESOURCES] for run in ended} == {"1 CPU"}
    assert all(run.data.tags[tags.NODE] for run in ended)
    known = set(servers.secrets) - {PASSWORD}
    assert files_with(nodes.folder, *known) == []
    assert not any(secret in text + other for secret in servers.secrets)
    nodes.add()


def test_a_killed_flow_goes_on_where_it_was(servers: Team, nodes: RayNodes, by_flow: Project, tmp_path: Path) -> None:
    """And a tracking server that is away during the training loses no run."""
    project = servers.new_project(tmp_path / "project")
    project.edit("params.yaml", "    epochs: 1000\n", "    epochs: 6000\n")
    run = (*TRACKWAY, "run", "line", "--on", nodes.address)
    flow = project.start(*run)
    wait_until(lambda: stages_on(nodes.folder, "tasks.train train@line-linear"), 300)
    flow.kill()
    flow.communicate()
    warm = {process.pid for process in warm_on(nodes.folder)}
    done = project.lock["stages"]
    assert "train@line-linear" not in done

    with project.start(*run, TRACKWAY_PATIENCE="1") as again:
        trained = len(runs(servers, "line"))
        wait_until(lambda: len(runs(servers, "line")) > trained, 300)
        servers.kill("mlflow")
        said = again.communicate(timeout=300)[0]
    servers.start_again("mlflow")
    assert again.returncode == 1, said
    assert "transform line: " not in said, "it was done already"
    assert list((project.folder / "mlruns/undelivered").iterdir()), "the run came from its node to the flow's folder"
    said = project.run(*run).stdout
    assert "1 run, 8 up to date" in said, said
    assert warm <= {process.pid for process in warm_on(nodes.folder)}, "Ray ends its workers, and not these"
    remembered = list((project.folder / ".dvc/cache/runs").glob("*/*"))
    assert len(remembered) == 8, "DVC's cache restores each stage but the download, as after a run here"
    assert not list((project.folder / "mlruns/undelivered").iterdir())
    wait_until(lambda: all(each.info.status != "RUNNING" for each in runs(servers, "line")), 60)
    shown = project.run(*TRACKWAY, "predict", "--model", "line@champion", "0.5").stdout
    assert "0.6" in shown


def test_what_a_stage_needs_and_how_it_ends_reach_its_node(servers: Team, nodes: RayNodes, tmp_path: Path) -> None:
    project = servers.new_project(tmp_path / "project")
    project.edit("params.yaml", "    epochs: 1000\n", "    epochs: 1000000\n")
    project.edit("params.yaml", "timeouts: {transform: 3600, train: 86400}", "timeouts: {transform: 3600, train: 4}")
    run = (*TRACKWAY, "run", "train@line-linear", "--on", nodes.address)
    said = project.run(*run, check=False).stdout
    assert "train@line-linear took longer than 4 s and was stopped" in said
    wait_until(lambda: not stages_on(nodes.folder, "tasks.train"), 30)

    project.edit("params.yaml", "train: 4}", "train: null}\n  resources: {line-linear: {gpus: 0.5, memory: 1GiB}}")
    with project.start(*run) as flow:
        assert flow.stdout
        line = next(line for line in flow.stdout if "waits, for no node" in line)
        assert "train@line-linear waits, for no node of the cluster has 1 CPU, 0.5 GPU" in line
        flow.send_signal(signal.SIGINT)
        flow.communicate(timeout=60)
    assert flow.returncode == 130

    project.edit("params.yaml", "gpus: 0.5, ", "")
    with project.start(*run) as flow:
        wait_until(lambda: stages_on(nodes.folder, "tasks.train"), 60)
        flow.send_signal(signal.SIGINT)
        said = flow.communicate(timeout=60)[0]
    assert flow.returncode == 130, said
    wait_until(lambda: not stages_on(nodes.folder, "tasks.train"), 30)
    wait_until(lambda: all(each.info.status != "RUNNING" for each in runs(servers, "line")), 60)


def test_mistakes_are_told_before_any_work(servers: Team, nodes: RayNodes, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    project = make_project(folder)
    said = project.run(*TRACKWAY, "run", "line", "--on", nodes.address, check=False).stdout
    assert (
        "error: tracking is sqlite:///mlruns/mlflow.db, a file on this disk; on a cluster it must be a server" in said
    )
    assert "error: there is no DVC remote by which the nodes get data; add one: dvc remote add --default" in said
    project.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    said = project.run(*TRACKWAY, "run", "line", "--on", nodes.address, check=False).stdout
    assert (
        f"error: the DVC remote is {tmp_path / 'store'}, and there is no such folder; on a cluster it must be" in said
    )
    said = project.run(*TRACKWAY, "run", "--on", "10.0.0.1:10001", check=False).stdout
    assert "error: --on is 10.0.0.1:10001; it must be the address of a Ray cluster, such as ray://HOST:10001" in said
    project.edit("params.yaml", "tracking: sqlite:///mlruns/mlflow.db", "tracking: null")
    (tmp_path / "store").mkdir()
    run = (*TRACKWAY, "run", "line", "--on")
    said = project.run(*run, nodes.address, check=False, RAY_AUTH_TOKEN="a" * 48).stdout
    assert "cannot be used: it refuses the token, or asks for one; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN" in said
    said = project.run(*run, f"ray://127.0.0.1:{servers.ports['mlflow']}", check=False).stdout
    assert "cannot be used: another server answers there; a cluster has the address of its head" in said
    project.edit("params.yaml", "  notify: []", "  executor: ray\n  resources: {trian: {cpus: 2}}\n  notify: []")
    said = project.run(*TRACKWAY, "check", check=False).stdout
    assert "executor: ray needs address, such as ray://HOST:10001" in said


def test_a_lost_cluster_ends_the_flow_with_its_reason(servers: Team, nodes: RayNodes, tmp_path: Path) -> None:
    """The last test: its cluster is gone then."""
    project = servers.new_project(tmp_path / "project")
    project.edit("params.yaml", "    epochs: 1000\n", "    epochs: 1000000\n")
    with project.start(*TRACKWAY, "run", "line", "--on", nodes.address) as flow:
        wait_until(lambda: stages_on(nodes.folder, "tasks.train train@line-linear"), 300)
        nodes.kill(0)
        said = flow.communicate(timeout=180)[0]
    assert flow.returncode == 1, said
    assert f"the Ray cluster at {nodes.address} does not answer any more; the same command goes on" in said
    project.edit("params.yaml", "    epochs: 1000000\n", "    epochs: 1000\n")
    assert "download@line" in project.lock["stages"]
    said = project.run(*TRACKWAY, "run", "line", "--on", nodes.address, check=False).stdout
    assert f"error: the flow ended Failed\nthe Ray cluster at {nodes.address} cannot be used: " in said, said
