"""Fixtures: real copies of this project in temporary folders, where the real commands run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Project:
    """A clone of the working tree with a git history and a DVC cache of its own."""

    folder: Path

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the project, `python` being this one. Output and errors come back as one text."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
        return done

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Starts a server in the project, in a process group of its own."""
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=quiet, stderr=quiet, start_new_session=True
        )

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": path, "PREFECT_HOME": str(self.folder / ".prefect")}

    def stage(self, name: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """`train@digits-mlp` → python -m tasks.train digits-mlp"""
        kind, _, item = name.partition("@")
        return self.run("python", "-m", f"tasks.{kind}", item, check=check, **environment)

    def read(self, file: str) -> str:
        return (self.folder / file).read_text(encoding="utf-8")

    def edit(self, file: str, old: str, new: str) -> None:
        text = self.read(file)
        assert old in text, f"{old!r} is not in {file}"
        (self.folder / file).write_text(text.replace(old, new, 1), encoding="utf-8")

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.folder}/mlruns/mlflow.db"


def make_project(folder: Path) -> Project:
    """Everything that git tracks or would track, as it is in the working tree, and one commit."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    project = Project(folder)
    project.run("git", "init", "--quiet")
    project.run("git", "add", "--all")
    author = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    project.run("git", *author, "commit", "--quiet", "--message", "start")
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project in which nothing has run yet."""
    return make_project(tmp_path)


@pytest.fixture(scope="session")
def by_flow(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which the Prefect flow has run everything. Not to be changed."""
    project = make_project(tmp_path_factory.mktemp("by-flow"))
    log = project.run("python", "-m", "flows.cli", "run").stdout
    (project.folder / ".git" / "first-run.log").write_text(log, encoding="utf-8")
    return project


@pytest.fixture(scope="session")
def by_repro(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which a bare `dvc repro` has run everything. Not to be changed."""
    project = make_project(tmp_path_factory.mktemp("by-repro"))
    project.run("dvc", "repro")
    return project


@pytest.fixture
def finished(by_flow: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of a project in which everything has run, to be changed at will."""
    folder = tmp_path / "project"
    shutil.copytree(by_flow.folder, folder, symlinks=True)
    return Project(folder)


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder with the datasets' files; tests that need it are skipped where there is none."""
    value = os.environ.get("DATA_MIRROR")
    if not value or not Path(value).is_dir():
        pytest.skip("needs the datasets' files: set DATA_MIRROR to a folder that has FashionMNIST/*.gz")
    return Path(value).absolute()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if os.environ.get("CI") and os.environ.get("DATA_MIRROR"):
        for report in terminalreporter.stats.get("skipped", []):
            terminalreporter.write_line(f"skipped although CI has everything: {report.nodeid}", red=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a test that could have run must not be skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("CI") and os.environ.get("DATA_MIRROR") and skipped and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
