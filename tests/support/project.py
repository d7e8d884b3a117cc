"""Real copies of this project in temporary folders, where the real commands run."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from requests.adapters import HTTPAdapter
from ruamel.yaml import YAML
from urllib3.util import Retry

from tasks.params import Params, load_params
from tasks.workspace.environment import WARM

ROOT = Path(__file__).parents[2]

PREFECT = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_UI_URL")  # which server, and its password
TRACKWAY = ("python", "-m", "flows.cli")  # the copy's, not the installed one


# What takes the tests' warm process and Prefect's server away from a command.
AS_SHIPPED = {WARM: "", "PREFECT_API_URL": ""}


@dataclass(frozen=True)
class Project:
    """A clone of the working tree with a git history and a DVC cache of its own."""

    folder: Path

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the project, `python` being this one. Output and errors come back as one text."""
        done = subprocess.run(command, timeout=900, **self._as_one_text(environment))
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
        return done

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Starts a command in the project, in a session of its own; its output and errors are one stream."""
        return subprocess.Popen(command, start_new_session=True, **self._as_one_text(environment))

    def _as_one_text(self, environment: dict[str, str]) -> dict[str, Any]:
        """How a command is run in the project: its output and errors together."""
        return {
            "cwd": self.folder,
            "env": self.environment | environment,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
        }

    def python(self, code: str, *arguments: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """`python -c CODE ARGUMENTS`, in a fork of the warm process if one listens: MLflow is there already."""
        return self.run("python", "-m", "tasks.warm", "tests.support.code", code, *arguments, check=check, **env)

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

    def keep_only(self, dataset: str) -> None:
        """Takes the other datasets out of params.yaml, with their experiments."""
        yaml = YAML()
        params = yaml.load(self.read("params.yaml"))
        kept = {"datasets": {dataset}}
        kept["experiments"] = {name for name, each in params["experiments"].items() if each["dataset"] == dataset}
        for section, names in kept.items():
            for name in params[section].keys() - names:
                del params[section][name]
        with (self.folder / "params.yaml").open("w", encoding="utf-8") as stream:
            yaml.dump(params, stream)

    def commit(self, message: str) -> None:
        """Everything that git does not ignore."""
        author = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
        self.run("git", "add", "--all")
        self.run("git", *author, "commit", "--quiet", "--message", message)

    @property
    def lock(self) -> Any:
        """dvc.lock, parsed: its entries stand in the order in which the stages ended."""
        return YAML(typ="safe").load(self.read("dvc.lock"))

    def forget(self, *stages: str) -> None:
        """Makes DVC take stages for never run; what they made is no longer in its cache."""
        lock = self.lock
        for stage in stages:
            del lock["stages"][stage]
        with (self.folder / "dvc.lock").open("w", encoding="utf-8") as stream:
            YAML().dump(lock, stream)
        shutil.rmtree(self.folder / ".dvc/cache/runs")

    def processes(self, word: str) -> list[psutil.Process]:
        """What runs in the project's folder and has the word in its command line, but for shells that wait for it.

        DVC runs `python -m tasks.train train@digits-mlp`, a person may leave out `train@`; here both read as that.
        """
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                shell = process.name() in ("sh", "dash", "bash")
                command = re.sub(r"tasks\.(\w+) \1@", r"tasks.\1 ", " ".join(process.cmdline()))
                if not shell and word in command and process.cwd() == str(self.folder):
                    found.append(process)
        return found

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.folder}/mlruns/mlflow.db"


# Of the experiments on digits, and as most tests have it: with this seed digits-cnn is best on each kind of processor.
SEEDS, SEED = "    seeds: [42, 43, 44]\n", "    seed: 43\n"


def shipped() -> Params:
    """The parameters of the projects that `make_project` makes."""
    params = load_params(ROOT / "params.yaml")
    one_seed = {
        name: each.with_seed(each.trainings[len(each.trainings) // 2]) for name, each in params.experiments.items()
    }
    return params.model_copy(update={"experiments": one_seed})


def make_project(folder: Path) -> Project:
    """Everything that git tracks or would track, as it is in the working tree, but with one seed; and one commit."""
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
    installed = ROOT / "trackway.egg-info"  # a user's folder has it, for the project is installed in place
    if installed.is_dir():
        shutil.copytree(installed, folder / installed.name)
    project = Project(folder)
    params = folder / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace(SEEDS, SEED), encoding="utf-8")
    project.run("git", "init", "--quiet")
    project.commit("start")
    return project


@contextmanager
def warm_process(
    folder: Path, place: Path, log: Path, *libraries: str, python: str = sys.executable
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts one in a folder, which ends with this; its log says what it has forked for."""
    command = [python, "-m", "flows.executors.warm", str(place), *libraries]
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        wait_until(place.exists, 10)
        yield process


# Where two write to its database at once, Prefect's server answers one of them 503 and hangs up: try again.
AS_PREFECT_S_CLIENT_DOES = Retry(
    connect=0, read=0, status=5, status_forcelist=[503], allowed_methods=None, backoff_factor=0.5
)


@dataclass(frozen=True)
class Served(Project):
    """A finished project with `trackway up`."""

    prefect: str  # addresses
    mlflow: str

    @property
    def environment(self) -> dict[str, str]:
        """It asks its own server, which Prefect's profile in the folder names."""
        return {key: value for key, value in super().environment.items() if key not in PREFECT}

    def up(self) -> None:
        """With a warm process of its own, and with scheduled runs planned every 3 s."""
        ports = [f"--{name}-port={getattr(self, name).rpartition(':')[2]}" for name in ("prefect", "mlflow")]
        self.run(*TRACKWAY, "up", *ports, PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="3", check=True, **{WARM: ""})

    def start_run(self, deployment: str, **parameters: Any) -> str:
        """Starts a deployment's run through Prefect's REST API; its id."""
        found = self.ask(f"deployments/name/{deployment}/{deployment}")
        return self.ask(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})["id"]

    def ask(self, path: str, body: dict[str, Any] | list[Any] | None = None) -> Any:
        """GET, or POST where there is a body."""
        with requests.Session() as session:
            session.mount("http://", HTTPAdapter(max_retries=AS_PREFECT_S_CLIENT_DOES))
            session.headers["Connection"] = "close"
            answer = session.request(
                "GET" if body is None else "POST", f"{self.prefect}/api/{path}", json=body, timeout=30
            )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def wait_for(self, run: str, *states: str, seconds: float = 120) -> dict[str, Any]:
        """The flow run, once it is in one of the states; by default once it has ended."""
        ends = states or ("Completed", "Failed", "Crashed", "Cancelled")
        return wait_until(lambda: (r := self.ask(f"flow_runs/{run}"))["state"]["name"] in ends and r, seconds)

    def logs(self, run: str) -> str:
        found = self.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"})
        return "\n".join(line["message"] for line in found)

    def tasks(self, run: str) -> dict[str, str]:
        """Task run → state, of a flow run."""
        found = self.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}, "limit": 200})
        return {task["name"]: task["state"]["name"] for task in found}


def wait_until(check: Callable[[], Any], seconds: float) -> Any:
    """What the check returns, once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Webhook(ThreadingHTTPServer):
    """Hears what is posted to its address, whatever follows that."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hearing)
        self.told: list[Any] = []
        self.paths: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class Hearing(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        self.server.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
