"""The services of deploy/compose.yaml as processes of this machine, and the clones of people who use them."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import psutil
import requests
import sqlalchemy
from ruamel.yaml import YAML

from tests.support.pages import blocks
from tests.support.postgres import PASSWORD, Postgres
from tests.support.project import PREFECT, ROOT, Project, free_port, make_project, wait_until

COMPOSE = YAML(typ="safe").load(ROOT / "deploy/compose.yaml")
SERVICES = COMPOSE["services"]
VARIABLE = re.compile(r"\$\{(\w+):([?-])([^}]*)\}")
IN_IMAGE = dict(re.findall(r"^(?:ENV|   ) (\w+)=(\S+)", (ROOT / "deploy/Dockerfile").read_text("utf-8"), re.MULTILINE))
PORTS = {"s3": 3900, "mlflow": 5000, "prefect": 4200}
HEALTH = {"mlflow": "health", "prefect": "api/health"}
TRACKING = blocks("yaml", "docs/team.md")[0].strip()


@dataclass(eq=False)
class Team:
    """A team's servers: each command and variable is that of compose.yaml, but for ports and names of hosts.

    Garage's place is taken by rclone, which checks keys, too, and keeps the store's objects as files in a folder.
    """

    folder: Path
    postgres: Postgres
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in PORTS})
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @cached_property
    def variables(self) -> dict[str, str]:
        """What the environment must have for compose.yaml."""
        return {
            "POSTGRES_PASSWORD": PASSWORD,
            "TRACKWAY_PASSWORD": secrets.token_hex(16),
            "AWS_ACCESS_KEY_ID": f"GK{secrets.token_hex(12)}",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(32),
        }

    @property
    def secrets(self) -> list[str]:
        return [value for name, value in self.variables.items() if name != "AWS_ACCESS_KEY_ID"]

    @property
    def environment(self) -> dict[str, str]:
        """What docs/team.md has a person of the team set."""
        found = self.variables | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['s3']}",
            "TRACKING_HOST": f"127.0.0.1:{self.ports['mlflow']}",
        }
        if "prefect" in self.running:
            found["PREFECT_API_URL"] = f"http://127.0.0.1:{self.ports['prefect']}/api"
            found["PREFECT_API_AUTH_STRING"] = f"trackway:{self.variables['TRACKWAY_PASSWORD']}"
        return found

    @property
    def tracking(self) -> str:
        return f"http://trackway:{self.variables['TRACKWAY_PASSWORD']}@127.0.0.1:{self.ports['mlflow']}"

    @property
    def bucket(self) -> Path:
        return self.folder / "s3/trackway"

    def here(self, text: str) -> str:
        """A text of compose.yaml with its variables' values, and with the addresses of this machine."""

        def value(match: re.Match[str]) -> str:
            name, kind, otherwise = match.groups()
            return self.variables[name] if kind == "?" else otherwise

        text = VARIABLE.sub(value, text).replace("@postgres/", f"@127.0.0.1:{self.postgres.port}/")
        for name, port in PORTS.items():
            ours = str(self.ports[name])
            text = ours if text == str(port) else text.replace(f"{name}:{port}", f"127.0.0.1:{ours}")
        return text.replace("0.0.0.0", "127.0.0.1")

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Starts a service, and does not wait for it."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        if name == "s3":
            self.bucket.mkdir(parents=True, exist_ok=True)
            key = ",".join(self.variables[each] for each in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
            command = ["rclone", "serve", "s3", "--addr", f"127.0.0.1:{self.ports['s3']}", "."]
            environment = {"RCLONE_AUTH_KEY": f'"{key}"', "RCLONE_CONFIG": os.devnull}
        else:
            command = [self.here(word) for word in SERVICES[name]["command"]]
            environment = {key: self.here(each) for key, each in SERVICES[name]["environment"].items()}
        kept = {key: each for key, each in os.environ.items() if key not in PREFECT}
        ours = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PREFECT_HOME": str(folder),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "AWS_MAX_ATTEMPTS": "1",  # of MLflow's server to reach a lost S3 store; five by default
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command,
                cwd=folder,
                env=kept | IN_IMAGE | ours | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.running[name]

    def wait_for(self, name: str) -> None:
        """Returns when a service answers."""
        address = f"http://127.0.0.1:{self.ports[name]}/{HEALTH.get(name, '')}"

        def answers() -> bool:
            assert self.running[name].poll() is None, self.log(name)
            try:
                return requests.get(address, timeout=2).status_code < 500
            except requests.RequestException:
                return False

        wait_until(answers, 180)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def kill(self, name: str) -> None:
        """As a crash would."""
        process = self.running.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def start_again(self, name: str) -> None:
        self.start(name)
        self.wait_for(name)

    def user(self, folder: Path) -> User:
        return User(folder, self)

    def new_project(self, folder: Path) -> User:
        """A person's project with the team's stores, in which nothing has run."""
        folder.mkdir()
        made = self.user(make_project(folder).folder)
        made.run("dvc", "remote", "add", "--default", "store", "s3://trackway/dvc")
        made.edit("params.yaml", "tracking: sqlite:///mlruns/mlflow.db", TRACKING)
        made.commit("the team's stores")
        return made


@contextmanager
def team(folder: Path, postgres: Postgres, services: Iterable[str] = PORTS) -> Iterator[Team]:
    """Starts PostgreSQL's databases and the servers; they end with the context."""
    made = Team(folder, postgres)
    server = postgres.new_database()
    engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    create = [f"CREATE DATABASE {SERVICES['postgres']['environment']['POSTGRES_DB']}"]
    create.append(COMPOSE["configs"]["databases"]["content"])
    with engine.connect() as connection:
        for command in create:
            connection.execute(sqlalchemy.text(command))
    try:
        for name in services:
            made.start(name)
        for name in services:
            made.wait_for(name)
        yield made
    finally:
        for name in list(made.running):
            made.kill(name)
        with engine.connect() as connection:  # another team may follow in this PostgreSQL
            for command in create:
                name = command.strip().rstrip(";").replace("CREATE DATABASE", "DROP DATABASE")
                connection.execute(sqlalchemy.text(f"{name} WITH (FORCE)"))


@dataclass(frozen=True)
class User(Project):
    """A person's clone; the environment has what docs/team.md says."""

    team: Team
    name: str = "first"  # of the user, for MLflow

    @property
    def environment(self) -> dict[str, str]:
        author = {
            f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        return (
            super().environment | self.team.environment | author | {"LOGNAME": self.name}
        )  # MLflow's name of the user

    @property
    def tracking_uri(self) -> str:
        return self.team.tracking


@dataclass
class Overheard:
    """The arguments of all processes of this machine that were seen meanwhile."""

    words: set[str] = field(default_factory=set)

    @contextmanager
    def listening(self) -> Iterator[None]:
        ended = threading.Event()
        thread = threading.Thread(target=self._listen, args=[ended])
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _listen(self, ended: threading.Event) -> None:
        while not ended.wait(0.5):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    self.words.update(process.cmdline())


def files_with(folder: Path, *texts: str) -> list[Path]:
    """The files below a folder that have one of the texts."""
    found: list[Path] = []
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            found += [file for text in texts if text.encode() in content]
    return found
