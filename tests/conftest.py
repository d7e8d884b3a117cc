"""Fixtures: real copies of this project in temporary folders, where the real commands run."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from flows.servers.config import COMMAND_LIBRARIES
from flows.servers.temporary import start_temporary_server
from tasks.workspace.environment import WARM
from tests.support.mlflow_server import Door, MlflowServer
from tests.support.postgres import Postgres, cluster, programs
from tests.support.project import (
    AS_SHIPPED,
    PREFECT,
    ROOT,
    TRACKWAY,
    Project,
    Served,
    Webhook,
    free_port,
    make_project,
    warm_process,
)

# A shell's background job has it ignored, and so would have every process that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def warm_socket() -> Iterator[str]:
    """The socket of a warm process for all tests of a worker, and for the `trackway` command.

    They take half the time. What it must equal are the cold stages of `by_repro`.
    """
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        place = Path(folder, "warm.sock")  # a socket's path must be short
        with warm_process(ROOT, place, place.with_suffix(".log"), *COMMAND_LIBRARIES.split()):
            patch.setenv(WARM, str(place))
            yield str(place)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server for the flows of all tests of a worker, which would each start one, as a user's do."""
    before = os.environ.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        server = start_temporary_server()
    server.wait()
    yield
    server.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def own_tracking_uri() -> Iterator[None]:
    """What a test says about MLflow's store holds for this test."""
    yield
    if mlflow := sys.modules.get("mlflow"):
        mlflow.set_tracking_uri(None)


@pytest.fixture
def own_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands ask the Prefect server of their project's folder, as a user's do, and not that of all tests."""
    for name in PREFECT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def as_shipped(monkeypatch: pytest.MonkeyPatch, own_prefect: None) -> None:
    """Stages start as a user's do: in a flow warm, by a flow's own process, and else cold. So does Prefect's server."""
    monkeypatch.delenv(WARM, raising=False)


@pytest.fixture
def project(tmp_path: Path, warm_socket: str, prefect_server: None) -> Project:
    """A project in which nothing has run yet."""
    return make_project(tmp_path)


@pytest.fixture(scope="session")
def by_flow(tmp_path_factory: pytest.TempPathFactory, warm_socket: str, prefect_server: None) -> Project:
    """A project in which the Prefect flow has run everything, warm. Not to be changed."""

    def run(project: Project) -> None:
        log = project.run("python", "-m", "flows.cli", "run", check=True, **AS_SHIPPED).stdout
        (project.folder / ".git" / "first-run.log").write_text(log, encoding="utf-8")

    return made_once("by-flow", run, tmp_path_factory)


@pytest.fixture(scope="session")
def by_repro(tmp_path_factory: pytest.TempPathFactory, warm_socket: str) -> Project:
    """A project in which `dvc repro` has run everything, each kind of stage also cold. Not to be changed."""

    def run(project: Project) -> None:
        project.run("dvc", "repro", "register@digits", check=True, **{WARM: "off"})
        project.run("dvc", "repro", check=True)

    return made_once("by-repro", run, tmp_path_factory)


def made_once(name: str, run: Callable[[Project], object], factory: pytest.TempPathFactory) -> Project:
    """A project that pytest's workers share: the first to need it makes it, the other waits."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / f"{name}.lock"):
        if not (folder / f"{name}.made").exists():
            (folder / name).mkdir()
            run(make_project(folder / name))
            (folder / f"{name}.made").touch()
    return Project(folder / name)


@pytest.fixture
def finished(by_flow: Project, tmp_path: Path) -> Project:
    """A copy of a project in which everything has run, to be changed at will."""
    folder = tmp_path / "project"
    shutil.copytree(by_flow.folder, folder, symlinks=True)
    return Project(folder)


SCHEDULE = "- {deployment: retrain, parameters: {dataset: line}, interval: 600, paused: true}"


@pytest.fixture(scope="session")
def served(by_flow: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Prefect's server, MLflow's and the serving process, for all tests, over a finished project."""
    folder = tmp_path_factory.mktemp("served") / "project"
    shutil.copytree(by_flow.folder, folder, symlinks=True)
    project = Served(folder, *(f"http://127.0.0.1:{free_port()}" for _ in ("prefect", "mlflow")))
    project.edit("params.yaml", "  schedules:", f"  schedules:\n    {SCHEDULE}")
    project.up()
    yield project
    project.run(*TRACKWAY, "down")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL cluster; each test takes databases of its own from it."""
    if not (folder := programs()):
        pytest.skip("needs PostgreSQL: apt install postgresql")
    with cluster(folder, free_port()) as running:
        yield running


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A tracking server as it may run elsewhere, not one of `trackway up`. A test that stops it starts it again."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow-server"), free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def door(mlflow_server: MlflowServer) -> Iterator[Door]:
    """An address of that server that a test can close and open."""
    door = Door(mlflow_server.port)
    door.open()
    yield door
    door.close()


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder with the datasets' files; tests that need it are skipped where there is none."""
    value = os.environ.get("DATA_MIRROR")
    if not value or not Path(value).is_dir():
        pytest.skip("needs the datasets' files: set DATA_MIRROR to a folder that has FashionMNIST/*.gz")
    return Path(value).absolute()


def unduly_skipped(reporter: pytest.TerminalReporter) -> list[str]:
    """In CI, what was skipped although it could have run: everything but tests of some hardware."""
    if not (os.environ.get("CI") and os.environ.get("DATA_MIRROR")):
        return []
    return [report.nodeid for report in reporter.stats.get("skipped", []) if "hardware" not in report.keywords]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name in unduly_skipped(terminalreporter):
        terminalreporter.write_line(f"skipped although CI has everything: {name}", red=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a test that could have run must not be skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter and unduly_skipped(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
