"""Warm stages: as cold ones in all but time; and what a warm process survives."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from tasks.warm import own_place
from tasks.workspace.environment import WARM
from tests.integration.flows.test_survival import LONG, Terminal, read_until, runs
from tests.support.project import ROOT, TRACKWAY, Project, Served, wait_until, warm_process

pytestmark = pytest.mark.usefixtures("as_shipped")
LOG = ".dvc/tmp/warm.log"

# A fork a line: `platform` is a module that prints one line.
MANY = """
import os, sys
from tasks.warm import hand_over
for _ in range(int(sys.argv[1])):
    if (pid := os.fork()) == 0:
        hand_over("platform", [])
        os._exit(9)
    assert os.waitpid(pid, 0)[1] == 0
"""


@dataclass(frozen=True)
class Warm:
    """A warm process, its socket and its log, which has so many characters when a test begins."""

    pid: int
    place: Path
    log: Path
    before: int

    @property
    def forked(self) -> list[str]:
        """What has been done by forks during the test."""
        return forked(self.log.read_text(encoding="utf-8")[self.before :])


@pytest.fixture(scope="module")
def ready() -> Iterator[Warm]:
    """A warm process for this file's tests: one takes seconds to start."""
    with tempfile.TemporaryDirectory() as folder:
        place, log = Path(folder, "warm.sock"), Path(folder, "log")  # a socket's path must be short
        with warm_process(ROOT, place, log) as process:
            wait_until(lambda: "ready" in log.read_text(encoding="utf-8"), 60)
            yield Warm(process.pid, place, log, 0)


@pytest.fixture
def warm(ready: Warm, monkeypatch: pytest.MonkeyPatch) -> Warm:
    """A warm process, which the project's stages use."""
    monkeypatch.setenv(WARM, str(ready.place))
    return replace(ready, before=len(ready.log.read_text(encoding="utf-8")))


@pytest.fixture
def own_warm(finished: Project) -> Iterator[subprocess.Popen[bytes]]:
    """A warm process of the finished project, ready."""
    with warm_process(finished.folder, socket_of(finished), finished.folder / LOG) as process:
        wait_until(lambda: "ready" in finished.read(LOG), 60)
        yield process


def socket_of(project: Project) -> Path:
    with contextlib.chdir(project.folder):
        return Path(own_place())


def forked(log: str) -> list[str]:
    """What has been done by forks."""
    return [line.strip() for line in log.splitlines() if not re.match("ready |.*\\(cold: ", line)]


def test_a_flow_starts_one_for_its_stages_which_ends_with_it(by_flow: Project) -> None:
    assert "loading PyTorch, MLflow and DVC once for all stages" in by_flow.read(".git/first-run.log")
    found = forked(by_flow.read(LOG))
    for kind, times in {
        "dvc": 31,
        "tasks.train": 7,
        "tasks.tracking.writer": 7,
        "tasks.evaluate": 7,
        "tasks.register": 4,
    }.items():
        assert sum(line.startswith(f"{kind} ") for line in found) == times, found
    wait_until(lambda: not by_flow.processes(""), 10)
    assert not socket_of(by_flow).exists()


def test_a_stage_is_warm_where_somebody_listens_and_not_where_that_is_off(finished: Project, warm: Warm) -> None:
    cold = finished.stage("split@digits", TRACKWAY_WARM="off").stdout
    assert warm.forked == []
    assert finished.stage("split@digits").stdout == cold
    assert warm.forked == ["tasks.split digits"]
    assert stat.S_IMODE(warm.place.stat().st_mode) == 0o700
    # what libraries set themselves when they are imported, as in the process that starts the warm one, is no difference
    finished.stage("split@circles", KMP_INIT_AT_FORK="FALSE", TORCHINDUCTOR_CACHE_DIR="elsewhere")
    both = ["tasks.split digits", "tasks.split circles"]
    assert warm.forked == both
    # another environment, other limits: in doubt cold
    finished.stage("split@digits", OMP_NUM_THREADS="1")
    finished.run("sh", "-c", "ulimit -v 50000000; exec python -m tasks.split digits")
    finished.run("python", "-X", "dev", "-m", "tasks.split", "digits")
    assert warm.forked == both


def test_mistakes_are_told_as_by_a_cold_stage(finished: Project, warm: Warm) -> None:
    for edit in (("nothing", "nothing"), ("lr: 0.003", "lr: fast")):
        finished.edit("params.yaml", *edit) if edit[0] != "nothing" else None
        told = [
            finished.stage("train@digits-other", check=False, **switch) for switch in ({}, {"TRACKWAY_WARM": "off"})
        ]
        assert told[0].returncode == told[1].returncode != 0
        assert told[0].stdout == told[1].stdout
        assert "Traceback" not in told[0].stdout


def test_code_is_that_of_now(finished: Project, warm: Warm) -> None:
    assert "split digits: train" in finished.stage("split@digits").stdout
    finished.edit("tasks/split.py", 'made := f"split {name}: ', 'made := f"cut {name}: ')
    assert finished.stage("split@digits").stdout.startswith("cut digits: train")
    assert len(warm.forked) == 2


def test_a_stage_that_crashes_in_c_fails_as_cold_and_harms_no_other(finished: Project, warm: Warm) -> None:
    text = finished.read("tasks/split.py")
    (finished.folder / "tasks/split.py").write_text(f"{text}\n", encoding="utf-8")
    finished.edit(
        "tasks/split.py",
        'if __name__ == "__main__":',
        'if __name__ == "__main__":\n    import ctypes\n    ctypes.string_at(0)',
    )
    done = [finished.stage("split@digits", check=False, **switch) for switch in ({}, {"TRACKWAY_WARM": "off"})]
    assert [stage.returncode for stage in done] == [-signal.SIGSEGV] * 2
    (finished.folder / "tasks/split.py").write_text(text, encoding="utf-8")
    finished.stage("split@digits")
    assert len(warm.forked) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_stage_ends_with_its_client(finished: Project, warm: Warm, number: signal.Signals) -> None:
    finished.edit("params.yaml", *LONG)
    training = finished.start("python", "-m", "tasks.train", "digits-mlp")
    read_until(training, "epoch 90/9000")
    training.send_signal(number)
    training.communicate(timeout=30)
    assert training.returncode == (130 if number == signal.SIGINT else -number)
    wait_until(lambda: not finished.processes(""), 20)
    assert runs(finished)[0] == "KILLED"
    finished.edit("params.yaml", *reversed(LONG))
    assert "Cached" not in finished.run("dvc", "repro", "evaluate@digits-mlp").stdout


def test_a_killed_warm_process_ends_no_stage_and_the_next_ones_run_cold(
    finished: Project, by_flow: Project, own_warm: subprocess.Popen[bytes]
) -> None:
    finished.forget("train@digits-mlp", "evaluate@digits-mlp", "register@digits")
    flow = finished.start(*TRACKWAY, "run", "digits")
    read_until(flow, "train digits-mlp: 4,810 parameters")
    own_warm.kill()
    log, _ = flow.communicate(timeout=300)
    assert flow.returncode == 0, log
    assert "error" not in log
    assert "warm" not in log
    assert finished.lock == by_flow.lock
    assert socket_of(finished).exists(), "it had no time to remove that, and nobody minds"


def test_it_ends_when_a_library_is_installed(finished: Project, tmp_path: Path) -> None:
    """In an environment of its own, which sees the libraries of this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip())
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    with warm_process(finished.folder, socket_of(finished), finished.folder / LOG, python=str(python)) as process:
        finished.run(str(python), "-m", "tasks.split", "digits")
        assert "tasks.split digits" in finished.read(LOG)
        (own / "other-1.0.dist-info").mkdir()
        log = finished.run(str(python), "-m", "tasks.split", "digits").stdout
        assert process.wait(10) == 0
    assert log.startswith("split digits: train")
    assert forked(finished.read(LOG)) == ["tasks.split digits"]
    assert not socket_of(finished).exists()


def test_two_hundred_stages_leave_its_memory_as_ten_do(finished: Project, warm: Warm) -> None:
    process = psutil.Process(warm.pid)
    finished.run("python", "-c", MANY, "10")
    after_ten = process.memory_info().rss
    finished.run("python", "-c", MANY, "190")
    assert len(warm.forked) == 200
    assert process.memory_info().rss < after_ten * 1.01
    wait_until(lambda: not process.children(), 10)


def test_a_terminal_shows_the_progress_bar_and_ctrl_c_ends_the_stage(finished: Project, warm: Warm) -> None:
    finished.edit("params.yaml", *LONG)
    with Terminal(finished, "dvc", "repro", "--single-item", "train@digits-mlp") as terminal:
        terminal.read_until("%|")
        terminal.press_ctrl_c()
        terminal.read_until(seconds=60)
        assert terminal.command.wait(10) != 0
        assert "Traceback" not in terminal.text, terminal.text
    assert "tasks.train train@digits-mlp" in warm.forked
    wait_until(lambda: not finished.processes(""), 20)


def test_nobody_else_can_reach_it(warm: Warm) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to become another user")
    code = (
        "import os, socket, sys\nos.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, warm.place], cwd="/", capture_output=True, text=True)
    assert "PermissionError" in done.stderr
    assert stat.S_IMODE(warm.place.parent.stat().st_mode) == 0o700


def test_status_shows_it_and_a_bare_repro_uses_it(served: Served) -> None:
    shown = served.run(*TRACKWAY, "status").stdout
    assert re.search(r"warm +– +(running|starting) +gives stages their libraries", shown), shown
    wait_until(lambda: "ready" in served.read(".servers/warm.log"), 60)
    served.run("dvc", "repro", "--force", "--single-item", "split@blobs")
    assert "tasks.split split@blobs" in served.read(".servers/warm.log")


def test_the_trackway_command_is_a_fork_while_the_servers_are_up(served: Served) -> None:
    """Its log looks the same, and its flow is on the page of the server that runs."""
    wait_until(lambda: "ready" in served.read(".servers/warm.log"), 60)
    before = len(served.ask("flow_runs/filter", {}))
    logs = [served.run(*TRACKWAY, "run", "blobs", TRACKWAY_WARM=switch).stdout for switch in ("", "off")]
    assert "flows.cli run blobs" in served.read(".servers/warm.log")
    assert len(served.ask("flow_runs/filter", {})) == before + 2
    time_or_id = re.compile(r"\d\d:\d\d:\d\d\.\d+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
    warm, cold = ([time_or_id.sub("", line) for line in log.splitlines()] for log in logs)
    assert [line for line in warm if "Flow run" in line] == [line for line in cold if "Flow run" in line]
    assert sorted(warm) == sorted(cold)


@pytest.mark.hardware
def test_a_stage_can_use_a_gpu_after_the_fork(finished: Project, warm: Warm) -> None:
    """The warm process refuses to serve once CUDA is initialized; a fork can still do so."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    finished.edit("params.yaml", "device: auto", "device: cuda")
    assert "cuda" in finished.stage("train@digits-mlp").stdout
    assert "tasks.train digits-mlp" in warm.forked
