"""Killed anywhere, run again: the same bytes. Stopped: nothing is left running. A full or read-only disk: an error."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch
from filelock import FileLock

from flows.graph import FLOW_LOCK
from learn.errors import DeviceError
from tasks.gpu import alone_on_gpu
from tasks.workspace.locks import STAGE_LOCKS
from tests.integration.tasks.test_tracking import LOAD_CHAMPION, run_of
from tests.support.project import ROOT, TRACKWAY, Project, Served, wait_until

pytestmark = pytest.mark.usefixtures("as_shipped")

RUN = (*TRACKWAY, "run", "digits")
LONG = "    epochs: 30\n", "    epochs: 9000\n"


@pytest.fixture
def undone(finished: Project) -> Project:
    """A project in which digits-mlp is still to be trained."""
    finished.forget("train@digits-mlp", "evaluate@digits-mlp", "register@digits")
    return finished


@pytest.fixture(params=["its own"])
def run(
    undone: Project, served: Served, warm_socket: str, request: pytest.FixtureRequest
) -> Iterator[subprocess.Popen[str]]:
    """A flow in it, started from a terminal; whose warm process forks for its stages is the fixture's parameter."""
    warm = warm_socket if request.param == "another" else ""
    flow = undone.start(*RUN, PREFECT_API_URL=f"{served.prefect}/api", TRACKWAY_WARM=warm)
    yield flow
    for process in undone.processes(""):
        process.kill()
    flow.wait()
    assert flow.stdout
    flow.stdout.close()


def read_until(flow: subprocess.Popen[str], words: str) -> None:
    """Fails if the flow ends, or two minutes pass, before it writes a line with these words."""
    assert flow.stdout
    seen = []
    late = threading.Timer(120, flow.kill)
    late.start()
    try:
        for line in flow.stdout:
            seen.append(line)
            if words in line:
                return
    finally:
        late.cancel()
    pytest.fail(f"no {words!r} in:\n{''.join(seen)}")


def runs(project: Project) -> list[str]:
    """How the training runs of the dataset ended, latest first."""
    client = mlflow.MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name("digits")
    assert experiment
    return [r.info.status for r in client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])]


def assert_a_rerun_ends_as_if_nothing_had_happened(
    project: Project, served: Served, by_flow: Project, warm_socket: str
) -> None:
    log = project.run(*RUN, PREFECT_API_URL=f"{served.prefect}/api", TRACKWAY_WARM=warm_socket).stdout
    assert "Completed('9 stages:" in log
    assert project.lock == by_flow.lock
    assert "up to date" in project.run("dvc", "status").stdout
    assert "RUNNING" not in runs(project)


@pytest.mark.parametrize(
    ("words", "run"),
    [
        ("Task run 'train digits-mlp' - train digits-mlp: 4,810 parameters", "its own"),
        ("train digits-mlp: epoch 30/30", "another"),
        ("evaluate digits-mlp: validation loss", "another"),
    ],
    indirect=["run"],
)
def test_a_killed_flow_takes_its_stages_with_it(
    undone: Project, run: subprocess.Popen[str], served: Served, by_flow: Project, words: str, warm_socket: str
) -> None:
    read_until(run, words)
    run.kill()
    wait_until(lambda: not undone.processes(""), 20)
    assert_a_rerun_ends_as_if_nothing_had_happened(undone, served, by_flow, warm_socket)


def test_a_killed_training_is_tried_once_more(undone: Project, served: Served) -> None:
    """Twenty times as long a training as shipped, so that it is still there when it is to be killed."""
    undone.edit("params.yaml", "    epochs: 30\n", "    epochs: 600\n")
    with undone.start(*RUN, PREFECT_API_URL=f"{served.prefect}/api") as flow:
        read_until(flow, "train digits-mlp: epoch 6/600")
        (training,) = undone.processes("python -m tasks.train digits-mlp")
        training.kill()
        log, _ = flow.communicate(timeout=120)
    assert flow.returncode == 0, log
    assert "train digits-mlp: epoch 600/600" in log
    assert "up to date" in undone.run("dvc", "status").stdout
    wait_until(lambda: "RUNNING" not in runs(undone), 10)


def test_a_training_killed_with_its_writer_is_marked_by_the_next_one(
    undone: Project, served: Served, by_flow: Project, warm_socket: str
) -> None:
    undone.edit("params.yaml", *LONG)
    flow = undone.start(*RUN, PREFECT_API_URL=f"{served.prefect}/api")
    try:
        read_until(flow, "train digits-mlp: epoch 90/9000")
        wait_until(lambda: "RUNNING" in runs(undone), 60)
    finally:
        trainings = [*undone.processes("tasks.train"), *undone.processes("tasks.tracking")]
        flow.kill()
        for process in trainings:
            process.kill()
        flow.communicate()
    undone.edit("params.yaml", *reversed(LONG))
    assert_a_rerun_ends_as_if_nothing_had_happened(undone, served, by_flow, warm_socket)


def test_a_stopped_flow_leaves_nothing_running(
    undone: Project, served: Served, by_flow: Project, warm_socket: str
) -> None:
    """By SIGTERM; Ctrl-C is below."""
    undone.edit("params.yaml", *LONG)
    flow = undone.start(*RUN, PREFECT_API_URL=f"{served.prefect}/api")
    try:
        read_until(flow, "epoch 90/9000")
        flow.terminate()
        wait_until(lambda: not undone.processes("tasks."), 10)
        flow.communicate(timeout=30)
        assert flow.returncode != 0
    finally:
        flow.kill()
    assert runs(undone)[0] == "KILLED"
    undone.edit("params.yaml", *reversed(LONG))
    assert_a_rerun_ends_as_if_nothing_had_happened(undone, served, by_flow, warm_socket)


class Terminal:
    """A command in a terminal of its own, where ^C is a character that interrupts the whole foreground group."""

    def __init__(self, project: Project, *command: str) -> None:
        self.screen, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (50, 200))  # without columns there is no room for a progress bar
        self.seen = ""
        self.command = subprocess.Popen(
            ["setsid", "--ctty", *command],
            cwd=project.folder,
            env=project.environment,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.command.kill()
        self.command.wait()
        os.close(self.screen)

    @property
    def text(self) -> str:
        """What is on the screen, without colours."""
        return re.sub(r"\x1b\[[\d;]*m", "", self.seen)

    def press_ctrl_c(self) -> None:
        os.write(self.screen, b"\x03")

    def read_until(self, words: str | None = None, seconds: float = 120) -> None:
        """Reads on until the words are on the screen; without words until nothing can write there any more."""
        deadline = time.monotonic() + seconds
        while words is None or words not in self.seen:
            if select.select([self.screen], [], [], 1)[0]:
                try:
                    self.seen += os.read(self.screen, 10_000).decode(errors="replace")
                except OSError:  # Linux's way to say that the other end is closed
                    assert words is None, f"no {words!r} in:\n{self.seen}"
                    return
            assert time.monotonic() < deadline, f"after {seconds} s no {words or 'end'!r} in:\n{self.seen}"


STOPPED = "stopped; run it again and it goes on"


def test_ctrl_c_in_a_terminal_stops_a_training_with_its_flow(undone: Project) -> None:
    """Where no server runs, so that the flow has started one for itself. An impatient second Ctrl-C changes nothing."""
    undone.edit("params.yaml", *LONG)
    with Terminal(undone, *RUN) as terminal:
        terminal.read_until("epoch 90/9000")
        terminal.press_ctrl_c()
        terminal.read_until("^C")
        terminal.press_ctrl_c()
        terminal.read_until(seconds=60)
        assert terminal.command.wait(10) == 130
        assert terminal.text.splitlines()[-1] == STOPPED
        assert "Traceback" not in terminal.text
    wait_until(lambda: not undone.processes(""), 20)
    assert runs(undone)[0] == "KILLED"


def test_ctrl_c_while_a_flow_starts_leaves_nothing(finished: Project) -> None:
    with Terminal(finished, *RUN) as terminal:
        wait_until(lambda: finished.processes("flows.servers.guard:prefect"), 60)
        terminal.press_ctrl_c()
        terminal.read_until(seconds=60)
        assert terminal.command.wait(10) == 130
        assert terminal.text.strip().split("\r\n") == ["loading DVC, Prefect and MLflow", f"^C{STOPPED}"]
    wait_until(lambda: not finished.processes(""), 20)


def test_a_killed_flow_takes_its_server_with_it(finished: Project) -> None:
    with Terminal(finished, *RUN) as terminal:
        terminal.read_until("Beginning flow run")
        assert finished.processes("flows.servers.guard:prefect")
        terminal.command.kill()
        wait_until(lambda: not finished.processes(""), 20)


def test_a_killed_dvc_takes_its_stage_with_it_and_can_be_run_again(
    undone: Project, by_flow: Project, warm_socket: str
) -> None:
    """Only DVC is killed, and run again at once: the two trainings do not both write the outputs and a run."""
    before = runs(undone)
    undone.edit("params.yaml", *LONG)
    with undone.start("dvc", "repro", "register@digits") as repro:
        read_until(repro, "epoch 90/9000")
        repro.kill()
        repro.wait()
        undone.edit("params.yaml", *reversed(LONG))
        log = undone.run("dvc", "repro", "register@digits", TRACKWAY_WARM=warm_socket).stdout
    assert "stays champion" in log
    assert runs(undone) == ["FINISHED", "KILLED", *before]
    assert undone.lock == by_flow.lock
    assert not undone.processes("tasks.")


def test_a_dvc_that_is_killed_while_it_writes_its_lock_leaves_it_whole(
    undone: Project, by_flow: Project, warm_socket: str
) -> None:
    before, partial = undone.read("dvc.lock"), undone.folder / ".dvc.lock.partial"
    os.mkfifo(partial)
    pipe = os.open(partial, os.O_RDWR)
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)  # bytes; more cannot be written until these are read
    with undone.start("dvc", "repro", "train@digits-mlp", TRACKWAY_WARM=warm_socket) as repro:
        assert os.read(pipe, 10).startswith(b"schema: ")
        os.killpg(repro.pid, signal.SIGKILL)
    os.close(pipe)
    assert undone.read("dvc.lock") == before
    partial.unlink()
    partial.write_text(before[:10_000], encoding="utf-8")
    undone.run("dvc", "repro", "register@digits", TRACKWAY_WARM=warm_socket)
    assert undone.lock == by_flow.lock
    assert not partial.exists()


def test_two_processes_of_one_stage_take_turns(finished: Project) -> None:
    with FileLock(finished.folder / ".dvc/tmp/stages/split-digits.lock"):
        stage = finished.start("python", "-m", "tasks.split", "digits")
        read_until(stage, "split digits: another process is at work on this stage; waiting for it to end\n")
    log, _ = stage.communicate(timeout=60)
    assert stage.returncode == 0, log
    assert log.startswith("split digits: train ")


@pytest.fixture
def unlogged(finished: Project) -> Project:
    """A project in which digits-cnn, the best, is still to be evaluated; its model is not in MLflow, nor a champion."""
    finished.forget("evaluate@digits-cnn", "register@digits")
    client = mlflow.MlflowClient(finished.tracking_uri)
    client.delete_registered_model("digits")
    (model,) = run_of(finished, "digits-cnn").outputs.model_outputs
    client.delete_logged_model(model.model_id)
    return finished


def test_a_download_is_tried_again_where_the_network_failed(
    finished: Project, served: Served, mirror: Path, warm_socket: str
) -> None:
    """Fashion-MNIST's hosts are behind a proxy that refuses; then its files appear in the mirror."""
    finished.run(*TRACKWAY, "add", "fashion_mnist")
    (finished.folder / "late").mkdir()
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
    flow = finished.start(
        *TRACKWAY,
        "run",
        "download@fashion_mnist",
        PREFECT_API_URL=f"{served.prefect}/api",
        DATA_MIRROR="late",
        TRACKWAY_WARM=warm_socket,
        **nowhere,
    )
    read_until(flow, "Retry 1/3 will start")
    (finished.folder / "late/FashionMNIST").symlink_to(mirror / "FashionMNIST")
    log, _ = flow.communicate(timeout=120)
    assert flow.returncode == 0, log
    assert "download fashion_mnist: 4 files" in log


def test_two_flows_in_one_folder_take_turns(undone: Project, served: Served) -> None:
    server = {"PREFECT_API_URL": f"{served.prefect}/api"}
    (undone.folder / STAGE_LOCKS).mkdir(parents=True, exist_ok=True)
    with FileLock(undone.folder / STAGE_LOCKS / "train-digits-mlp.lock"):
        first = undone.start(*RUN, **server)
        read_until(first, "another process is at work on this stage; waiting for it to end")
        second = undone.start(*RUN, **server)
        read_until(second, "another process runs stages in this folder; waiting for it to end")
    logs = [flow.communicate(timeout=120)[0] for flow in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], logs
    assert "9 stages: 0 run, 9 up to date" in logs[1]


def test_a_flow_waits_for_the_one_that_is_at_work(finished: Project, served: Served) -> None:
    with FileLock(finished.folder / FLOW_LOCK):
        flow = finished.start(*RUN, PREFECT_API_URL=f"{served.prefect}/api")
        read_until(flow, "another flow is at work in this folder; waiting for it to end")
    log, _ = flow.communicate(timeout=60)
    assert flow.returncode == 0, log
    assert "9 stages: 0 run, 9 up to date" in log


def mounted(project: Project, mount: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command where something is mounted in the project, for this command alone."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs `unshare --mount --map-root-user`: this system allows no mounts without privileges")
    return project.run("unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", *command, check=False)


def test_a_container_s_quota_of_processors_is_kept(project: Project) -> None:
    """`docker run --cpus=1` is this file in the container; here it is seen by one process."""
    (project.folder / "cpu.max").write_text("100000 100000\n")
    cgroup = "mount -t tmpfs none /sys/fs/cgroup && cp cpu.max /sys/fs/cgroup"
    code = "import os; from flows.pipeline import cpu_count; print(len(os.sched_getaffinity(0)), cpu_count())"
    found = mounted(project, cgroup, "python", "-c", code).stdout.split()
    assert int(found[0]) >= int(found[1]) == 1


FULL = "mount -t tmpfs -o size=16k none {}"
READ_ONLY = "mount --bind {0} {0} && mount -o remount,ro,bind {0}"


@pytest.mark.parametrize(("mount", "why"), [(FULL, "full"), (READ_ONLY, "Read-only file system")])
def test_an_mlflow_store_that_cannot_be_written_is_named(undone: Project, mount: str, why: str) -> None:
    done = mounted(undone, mount.format("mlruns"), "python", "-m", "tasks.train", "digits-mlp")
    assert done.returncode == 1
    assert "error: the MLflow store sqlite:///mlruns/mlflow.db cannot be used: " in done.stdout
    assert why in done.stdout
    assert "Traceback" not in done.stdout


def test_an_artifact_store_that_runs_full_leaves_no_half_champion(unlogged: Project, warm_socket: str) -> None:
    folder = "mlruns/artifacts/digits/models"
    done = mounted(unlogged, FULL.format(folder), "dvc", "repro", "register@digits")
    assert done.returncode != 0
    assert "error: the MLflow store sqlite:///mlruns/mlflow.db cannot be used: " in done.stdout
    assert "No space left on device" in done.stdout
    assert "Traceback" not in done.stdout
    log = unlogged.run("dvc", "repro", "register@digits", TRACKWAY_WARM=warm_socket).stdout
    assert "register digits: digits-cnn is champion (version 1, " in log
    unlogged.python(LOAD_CHAMPION)


@pytest.mark.parametrize(
    ("mount", "why"), [(FULL, "No space left on device"), (READ_ONLY, "Read-only file system")], ids=["full", "ro"]
)
def test_a_disk_that_cannot_be_written_is_named(undone: Project, mount: str, why: str) -> None:
    models = undone.folder / "models/digits-cnn"
    done = mounted(undone, mount.format("models"), "python", "-m", "tasks.train", "digits-mlp")
    assert done.returncode == 1
    assert f"{why}; nothing is half written: make room or give the right to write, and run it again" in done.stdout
    assert "Traceback" not in done.stdout
    assert models.is_dir()


def test_a_gpu_takes_one_stage_at_a_time_whichever_account_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock only; no GPU is needed for it. The second account is nobody, if root runs the test."""
    code = (
        "import os, sys, torch\nos.umask(0o077)\nfrom tasks.gpu import alone_on_gpu\n"
        "if sys.argv[1] == 'second' and os.getuid() == 0:\n"
        "    os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "with alone_on_gpu(sys.argv[1], torch.device('mps')):\n"
        "    print(sys.argv[1], 'trains', flush=True)\n"
        "    sys.stdin.read()"
    )
    shared = Path(tempfile.mkdtemp())
    shared.chmod(0o1777)
    environment = os.environ | {"TMPDIR": str(shared), "PYTHONUNBUFFERED": "1"}

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, name]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=ROOT)

    with start("first") as first:
        assert first.stdout
        assert first.stdout.readline() == "first trains\n"
        with start("second") as second:
            assert second.stdout
            assert second.stdout.readline() == "second: another stage is on mps; waiting for it to end\n"
            first.kill()
            assert second.stdout.readline() == "second trains\n"
            second.communicate()
    (lock,) = shared.iterdir()
    lock.unlink()
    lock.symlink_to(shared / "elsewhere")
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    with pytest.raises(DeviceError, match=r"trackway-gpu-mps\.lock cannot be opened: .*; remove it"):
        alone_on_gpu("third", torch.device("mps")).__enter__()
    shutil.rmtree(shared)
