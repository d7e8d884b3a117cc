"""Killed anywhere, run again: the same bytes. Stopped: nothing is left running. A full or read-only disk: an error."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import psutil
import pytest

from tests.conftest import TRACKWAY, Project, Served, wait_until

RUN = (*TRACKWAY, "run", "digits")
LONG = "    epochs: 30\n", "    epochs: 30000\n"


@pytest.fixture
def undone(finished: Project) -> Project:
    """A project in which digits-mlp is still to be trained."""
    finished.forget("train@digits-mlp", "evaluate@digits-mlp", "register@digits")
    return finished


@pytest.fixture
def run(undone: Project, served: Served) -> Iterator[subprocess.Popen[str]]:
    """A flow in it, started from a terminal."""
    flow = undone.start(*RUN, PREFECT_API_URL=f"{served.prefect}/api")
    yield flow
    for process in undone.processes(""):
        process.kill()
    flow.wait()
    assert flow.stdout
    flow.stdout.close()


def read_until(flow: subprocess.Popen[str], words: str) -> None:
    assert flow.stdout
    seen = []
    for line in flow.stdout:
        seen.append(line)
        if words in line:
            return
    pytest.fail(f"no {words!r} in:\n{''.join(seen)}")


def runs(project: Project) -> list[str]:
    """How the training runs of the dataset ended, latest first."""
    client = mlflow.MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name("digits")
    assert experiment
    return [r.info.status for r in client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])]


def assert_a_rerun_ends_as_if_nothing_had_happened(project: Project, served: Served, by_flow: Project) -> None:
    log = project.run(*RUN, PREFECT_API_URL=f"{served.prefect}/api").stdout
    assert "Completed('8 stages:" in log
    assert project.lock == by_flow.lock
    assert "up to date" in project.run("dvc", "status").stdout
    assert "RUNNING" not in runs(project)


@pytest.mark.parametrize(
    "words",
    [
        "Task run 'train digits-mlp' - train digits-mlp: 4,810 parameters",
        "train digits-mlp: epoch 30/30",
        "evaluate digits-mlp: loss",
    ],
)
def test_a_killed_flow_takes_its_stages_with_it(
    undone: Project, run: subprocess.Popen[str], served: Served, by_flow: Project, words: str
) -> None:
    read_until(run, words)
    run.kill()
    wait_until(lambda: not undone.processes("tasks."), 10)
    assert_a_rerun_ends_as_if_nothing_had_happened(undone, served, by_flow)


def test_a_killed_training_is_tried_once_more(
    undone: Project, run: subprocess.Popen[str], served: Served, by_flow: Project
) -> None:
    (training,) = wait_until(lambda: undone.processes("python -m tasks.train digits-mlp"), 60)
    training.kill()
    assert run.wait(120) == 0
    assert undone.lock == by_flow.lock
    wait_until(lambda: "RUNNING" not in runs(undone), 10)


def test_a_training_killed_with_its_writer_is_marked_by_the_next_one(
    undone: Project, served: Served, by_flow: Project
) -> None:
    undone.edit("params.yaml", *LONG)
    flow = undone.start(*RUN, PREFECT_API_URL=f"{served.prefect}/api")
    try:
        read_until(flow, "train digits-mlp: epoch 300/30000")
        wait_until(lambda: "RUNNING" in runs(undone), 60)
    finally:
        for process in [flow, *undone.processes("tasks.train"), *undone.processes("tasks.tracking")]:
            process.kill()
        flow.communicate()
    undone.edit("params.yaml", *reversed(LONG))
    assert_a_rerun_ends_as_if_nothing_had_happened(undone, served, by_flow)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_flow_leaves_nothing_running(
    undone: Project, served: Served, by_flow: Project, number: signal.Signals
) -> None:
    undone.edit("params.yaml", *LONG)
    flow = undone.start(*RUN, PREFECT_API_URL=f"{served.prefect}/api")
    try:
        read_until(flow, "epoch 300/30000")
        flow.send_signal(number)
        wait_until(lambda: not undone.processes("tasks."), 10)
        flow.communicate(timeout=30)
        assert flow.returncode != 0
    finally:
        flow.kill()
    assert runs(undone)[0] == "KILLED"
    undone.edit("params.yaml", *reversed(LONG))
    assert_a_rerun_ends_as_if_nothing_had_happened(undone, served, by_flow)


def test_a_killed_dvc_repro_can_be_run_again(undone: Project, by_flow: Project) -> None:
    with undone.start("dvc", "repro", "register@digits") as repro:
        (training,) = wait_until(lambda: undone.processes("python -m tasks.train digits-mlp"), 60)
        for process in (repro, training):
            process.kill()
    undone.run("dvc", "repro", "register@digits")
    assert undone.lock == by_flow.lock


def test_a_download_is_tried_again_where_the_network_failed(finished: Project, served: Served, mirror: Path) -> None:
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
        **nowhere,
    )
    read_until(flow, "Retry 1/3 will start")
    (finished.folder / "late/FashionMNIST").symlink_to(mirror / "FashionMNIST")
    log, _ = flow.communicate(timeout=120)
    assert flow.returncode == 0, log
    assert "download fashion_mnist: 4 files" in log


def test_two_flows_in_one_folder_take_turns(undone: Project, run: subprocess.Popen[str], served: Served) -> None:
    read_until(run, "train digits-mlp: 4,810 parameters")
    log = undone.run(*RUN, PREFECT_API_URL=f"{served.prefect}/api").stdout
    assert "another flow is at work in this folder; waiting for it to end" in log
    assert "8 stages: 0 run, 8 up to date" in log


def mounted(project: Project, mount: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command where something is mounted in the project, for this command alone."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs `unshare --mount --map-root-user`: this system allows no mounts without privileges")
    return project.run("unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", *command, check=False)


FULL = "mount -t tmpfs -o size=16k none {}"
READ_ONLY = "mount --bind {0} {0} && mount -o remount,ro,bind {0}"


@pytest.mark.parametrize(("mount", "why"), [(FULL, "full"), (READ_ONLY, "Read-only file system")])
def test_an_mlflow_store_that_cannot_be_written_is_named(undone: Project, mount: str, why: str) -> None:
    done = mounted(undone, mount.format("mlruns"), "python", "-m", "tasks.train", "digits-mlp")
    assert done.returncode == 1
    assert "error: the MLflow store sqlite:///mlruns/mlflow.db cannot be used: " in done.stdout
    assert why in done.stdout
    assert "Traceback" not in done.stdout


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


def test_a_gpu_takes_one_training_at_a_time(tmp_path: object, capfd: pytest.CaptureFixture[str]) -> None:
    """The lock only; no GPU is needed for it."""
    code = (
        "import sys, torch\nfrom tasks.train import _alone_on_gpu\n"
        "with _alone_on_gpu(sys.argv[1], torch.device('mps')):\n"
        "    print(sys.argv[1], 'trains', flush=True)\n"
        "    sys.stdin.read()"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, name]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    with start("first") as first:
        assert first.stdout
        assert first.stdout.readline() == "first trains\n"
        with start("second") as second:
            assert second.stdout
            assert second.stdout.readline() == "train second: another training is on mps; waiting for it to end\n"
            first.kill()
            assert second.stdout.readline() == "second trains\n"
            second.communicate()
    assert psutil.pid_exists(first.pid) is False
