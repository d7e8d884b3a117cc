"""docs/team.md, done: two people's clones, MLflow's server and Prefect's on PostgreSQL, an S3 store, and a worker."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import mlflow
import pytest
import requests
from mlflow.entities import Run

from flows.graph import Graph
from flows.publish import check_publishable
from learn.errors import ParamsError
from tasks.params import load_params
from tasks.tracking.names import Store
from tasks.tracking.runs import experiment_id_of
from tasks.tracking.tags import EXPERIMENT
from tasks.tracking.versions import _create_registered_model
from tests.support.pages import blocks
from tests.support.postgres import PASSWORD, Postgres
from tests.support.project import ROOT, TRACKWAY, Project, free_port, make_project, wait_until
from tests.support.team import TRACKING, Overheard, Team, User, files_with, team

UP, PROXY, FIRST, SECOND, AWAY, SCHEDULE = blocks("sh", "docs/team.md")
BRANCH = "main"
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def servers(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with team(tmp_path_factory.mktemp("team"), postgres) as running:
        yield running


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare repository of a project with one small dataset."""
    folder = tmp_path_factory.mktemp("origin")
    (folder / "start").mkdir()
    start = make_project(folder / "start")
    start.keep_only("line")
    start.commit("one small dataset")
    start.run("git", "branch", "--move", BRANCH)
    start.run("git", "clone", "--quiet", "--bare", ".", str(folder / "origin.git"))
    return folder / "origin.git"


def clone(servers: Team, origin: Path, folder: Path) -> User:
    Project(origin).run("git", "clone", "--quiet", ".", str(folder))
    return servers.user(folder)


def do(user: User, line: str) -> str:
    """Runs a line of the page, with this clone's `trackway`; what it printed."""
    line = re.sub(r"^trackway ", "python -m flows.cli ", line.partition(" #")[0].strip())
    return user.run("sh", "-c", line).stdout


@pytest.fixture(scope="module")
def overheard() -> Overheard:
    return Overheard()


@pytest.fixture(scope="module")
def first(
    servers: Team, origin: Path, overheard: Overheard, tmp_path_factory: pytest.TempPathFactory, warm_socket: str
) -> User:
    """The first person's clone, after all that the page says; what its commands printed is in `.git/said`.

    Another person runs the same flow at the same time, on servers where there is nothing yet.
    """
    folder = tmp_path_factory.mktemp("first")
    user = clone(servers, origin, folder / "project")
    rival = replace(clone(servers, origin, folder / "rival"), name="second")
    refused = user.run(*TRACKWAY, "run", "--publish", BRANCH, check=False).stdout
    assert "error: tracking is sqlite:///mlruns/mlflow.db, a file on this disk; with --publish" in refused
    assert "error: there is no DVC remote to publish to; add one: dvc remote add --default" in refused
    for each in (user, rival):
        each.edit("params.yaml", "tracking: sqlite:///mlruns/mlflow.db", TRACKING)
    add, run, push, commit = FIRST.splitlines()
    with overheard.listening():
        said = [do(user, add)]
        with ThreadPoolExecutor() as both:
            said += both.map(do, (user, rival), (run, run))
        said += [do(user, line) for line in (push, commit)]
    assert user.lock == rival.lock
    (user.folder / ".git/said").write_text("\n".join(said), encoding="utf-8")
    return user


def client(servers: Team) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(servers.tracking)


def runs(servers: Team) -> list[Run]:
    """Of the dataset, latest first."""
    found = client(servers).get_experiment_by_name("line")
    assert found
    return list(client(servers).search_runs([found.experiment_id], order_by=["start_time DESC"]))


def champion(servers: Team) -> str:
    version = client(servers).get_model_version_by_alias("line", "champion")
    return f"{version.tags[EXPERIMENT]} {version.version}"


def test_what_one_person_has_computed_the_other_has(
    first: User, servers: Team, origin: Path, overheard: Overheard, tmp_path: Path
) -> None:
    """And no process list, log or file tells the passwords and keys."""
    said = first.read(".git/said")
    assert re.search(r"line's champion, version \d \(line-linear\): its state_dict is in the remote", said)
    assert {run.info.status for run in runs(servers)} == {"FINISHED"}
    assert all(run.info.artifact_uri.startswith("mlflow-artifacts:/") for run in runs(servers))
    assert list((servers.bucket / "mlflow").rglob("MLmodel")), "artifacts are in S3"
    before = champion(servers), len(runs(servers))

    get, setup, activate, pull, repro, results, predict = SECOND.splitlines()
    assert (setup.split("#")[0].strip(), activate) == ("make setup", "source .venv/bin/activate")
    second = servers.user(tmp_path / "project")
    with overheard.listening():
        address = re.sub(r"git@\S+", f"file://{origin}", get.partition(" &&")[0])
        Project(tmp_path).run("sh", "-c", address)
        told = [do(second, line) for line in (pull, repro, results, predict)]
    assert "Running stage" not in told[1]
    assert "Data and pipelines are up to date." in told[1]
    assert re.search(r"line-linear .* champion", told[2])
    assert re.search(r"0\.6\d", told[3]), "0.7 × 0.5 + 0.3"
    assert (champion(servers), len(runs(servers))) == before
    assert second.lock == first.lock

    assert not [word for word in overheard.words if any(secret in word for secret in servers.secrets)]
    logs = said + "".join(told) + "".join(servers.log(name) for name in servers.running)
    assert not any(secret in logs for secret in servers.secrets)
    known = set(servers.secrets) - {PASSWORD}  # which is in these tests, and known to no person
    assert files_with(first.folder, *known) + files_with(second.folder, *known) == []


def test_stores_killed_during_a_training_and_a_push_lose_nothing(
    first: User, servers: Team, origin: Path, tmp_path: Path
) -> None:
    """Without S3, MLflow's server answers with errors; what it is like without that server is in test_servers.py."""
    user = clone(servers, origin, tmp_path / "project")
    user.run(*TRACKWAY, "pull")
    user.edit("params.yaml", "    epochs: 1000\n", "    epochs: 4000\n")
    before = len(runs(servers))
    with user.start(*TRACKWAY, "run", TRACKWAY_PATIENCE="1") as command:
        wait_until(lambda: len(runs(servers)) > before, 120)
        servers.kill("s3")
        said = command.communicate(timeout=300)[0]
    servers.kill("mlflow")
    assert command.returncode == 1, said
    assert "does not answer: too many 500 error responses; training goes on, and its run is kept in" in said
    assert list((user.folder / "mlruns/undelivered").iterdir())
    assert (user.folder / "models/line-linear/model.pt").is_file()
    for name in ("s3", "mlflow"):
        servers.start_again(name)
    assert AWAY.partition(" #")[0].strip() == "trackway run"
    again = do(user, AWAY)
    assert "9 stages: 1 run, 8 up to date" in again
    latest = runs(servers)[0]
    assert latest.info.status == "FINISHED"
    history = client(servers).get_metric_history(latest.info.run_id, "train/loss")
    assert sorted(point.step for point in history) == list(range(1, 4001))
    assert not list((user.folder / "mlruns/undelivered").iterdir())

    there = len(list(servers.bucket.rglob("*")))
    with user.start(*TRACKWAY, "push", AWS_MAX_ATTEMPTS="1") as push:
        wait_until(lambda: len(list(servers.bucket.rglob("*"))) > there or push.poll() is not None, 60)
        servers.kill("s3")
        push.communicate(timeout=120)
    servers.start_again("s3")
    assert f"{champion(servers).split()[0]}): its state_dict is in the remote" in do(user, "trackway push")


def has_certificate(address: str) -> bool:
    try:
        ssl.get_server_certificate(("localhost", int(address.rpartition(":")[2])), timeout=5)
    except OSError:
        return False
    return True


def test_many_may_create_the_same_at_once(servers: Team) -> None:
    """An experiment and a registered model, through the server, which has no lock for its clients."""

    def create(_: int) -> str:
        name = Store(servers.tracking).name("at-once")
        _create_registered_model(client(servers), name)
        return experiment_id_of(client(servers), servers.tracking, name)

    with ThreadPoolExecutor(8) as many:
        assert len(set(many.map(create, range(8)))) == 1


def test_a_proxy_adds_tls(servers: Team, tmp_path: Path) -> None:
    """The Caddyfile, with the certificate of a local authority that Caddy has for `localhost`."""
    names = {name: f"https://localhost:{free_port()}" for name in ("TRACKING_HOST", "FLOWS_HOST", "STORE_HOST")}
    ports = {
        f"{name}_PORT": str(servers.ports[each])
        for name, each in {"MLFLOW": "mlflow", "PREFECT": "prefect", "STORE": "s3"}.items()
    }
    rest = (ROOT / "deploy/Caddyfile").read_text(encoding="utf-8")
    assert PROXY.strip() == "caddy run --config deploy/Caddyfile"
    here = "{\n\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n}\n"  # no port 80, no sudo
    (tmp_path / "Caddyfile").write_text(here + rest, encoding="utf-8")
    command = ["caddy", "run", "--config", "Caddyfile"]
    user = servers.user(tmp_path)
    with user.start(*command, **names, **ports, XDG_DATA_HOME=str(tmp_path)) as caddy:
        try:
            authority = tmp_path / "caddy/pki/authorities/local/root.crt"
            wait_until(lambda: authority.exists() and all(map(has_certificate, names.values())), 30)
            login = ("trackway", servers.variables["TRACKWAY_PASSWORD"])

            def status(name: str, path: str, **asked: Any) -> int:
                found = requests.get(f"{names[name]}/{path}", verify=str(authority), timeout=30, **asked)
                return found.status_code

            for name, path in {"TRACKING_HOST": "version", "FLOWS_HOST": "api/admin/version"}.items():
                assert status(name, path) == 401
                assert status(name, path, auth=login) == 200
                assert status(name, path, auth=login, headers={"Origin": names[name]}) == 200
                assert status(name, path, auth=login, headers={"Origin": "https://evil.example"}) == 403
            key = {
                f"aws_{name}": servers.variables[f"AWS_{name.upper()}"]
                for name in ("access_key_id", "secret_access_key")
            }
            store = boto3.client("s3", endpoint_url=names["STORE_HOST"], verify=str(authority), **key)
            store.head_bucket(Bucket="trackway")  # its signature holds for the Host header that it has sent
        finally:
            caddy.kill()


def test_a_worker_clones_the_project_and_publishes_what_it_made(
    first: User, servers: Team, origin: Path, tmp_path: Path
) -> None:
    """The worker of compose.yaml and `prefect.yaml` as they are, but for the repository's address."""
    user = clone(servers, origin, tmp_path / "project")
    user.edit("prefect.yaml", "https://github.com/OWNER/trackway.git", f"file://{origin}")
    user.edit("params.yaml", "lr: 0.01", "lr: 0.02")
    user.commit("another learning rate")
    user.run("git", "push", "--quiet")
    pool, deploy, start = SCHEDULE.splitlines()
    do(user, pool)
    do(user, deploy.replace("prefect ", "prefect --no-prompt "))
    worker = servers.start("worker")
    shown = do(user, f"{start} --watch")
    servers.kill("worker")
    assert worker.returncode is not None
    assert "Completed" in shown, servers.log("worker")

    other = clone(servers, origin, tmp_path / "other")
    assert "Results of the flow run pipeline: everything" in other.run("git", "log", "-1").stdout
    other.run(*TRACKWAY, "pull")
    assert "up to date" in other.run("dvc", "status").stdout
    assert other.lock != first.lock
    assert not any(secret in servers.log("worker") for secret in servers.secrets)


def test_only_what_is_committed_and_pushed_is_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    project = make_project(tmp_path / "project")
    project.run("git", "branch", "--move", BRANCH)
    project.run("git", "clone", "--quiet", "--bare", ".", str(tmp_path / "origin.git"))
    project.run("git", "remote", "add", "origin", str(tmp_path / "origin.git"))
    project.edit("params.yaml", "tracking: sqlite:///mlruns/mlflow.db", "tracking: http://127.0.0.1:1")
    project.run("dvc", "remote", "add", "--quiet", "--default", "store", str(tmp_path / "store"))
    monkeypatch.chdir(project.folder)
    with pytest.raises(
        ParamsError, match=r"not committed: .*params.yaml; dvc.lock would be published without it: commit"
    ):
        check_publishable(load_params(), Graph(project.folder), BRANCH)
    project.commit("not pushed")
    with pytest.raises(
        ParamsError, match=f"the last commit here is not in {BRANCH} of git's origin, and would be published"
    ):
        check_publishable(load_params(), Graph(project.folder), BRANCH)
