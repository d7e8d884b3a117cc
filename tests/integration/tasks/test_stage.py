"""Folders that take the place of others, where several processes write them and some are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.workspace.files import atomic_folder, write_atomically
from tests.support.project import ROOT, Project

# Writes a new folder, says so, and waits for a line before it puts it into its place. With a number: is killed
# (SIGKILL) at that rename, 1 the old folder out of its place, 2 the new one into it.
WRITER = """
import os, sys
from pathlib import Path
from tasks.workspace.files import atomic_folder

renames = 0

def kill(event, arguments):
    global renames
    renames += event == "os.rename"
    if event == "os.rename" and sys.argv[2:] == [str(renames)]:
        os.kill(os.getpid(), 9)

sys.addaudithook(kill)
with atomic_folder(Path(sys.argv[1])) as partial:
    (partial / "new.txt").write_text("whole")
    print("written", flush=True)
    sys.stdin.readline()
    assert (partial / "new.txt").read_text() == "whole"
"""


def writer(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """It has written its files."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "written\n"
    return process


def goes_on(process: subprocess.Popen[str]) -> int:
    process.communicate("\n", timeout=120)
    return process.returncode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An old one."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/old.txt").write_text("whole")
    return tmp_path / "data"


def test_two_processes_do_not_touch_each_other_s_files(folder: Path) -> None:
    first, second = writer(folder), writer(folder)
    with atomic_folder(folder) as partial:
        (partial / "mine.txt").write_text("whole")
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    assert goes_on(second) == 0
    assert goes_on(first) == 0
    assert [path.name for path in folder.iterdir()] == ["new.txt"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_stage_goes_on_beside_another_writer_and_cleans_up_after_a_killed_one(finished: Project) -> None:
    raw, before = finished.folder / "data/raw/circles", finished.lock
    killed, living = writer(raw), writer(raw)
    killed.kill()
    killed.communicate()
    assert len(list(raw.parent.glob(".circles.*"))) == 2
    assert finished.run("git", "status", "--porcelain", "data").stdout == ""
    finished.run("dvc", "repro", "--force", "--single-item", "download@circles")
    assert finished.lock["stages"]["download@circles"] == before["stages"]["download@circles"]
    assert len(list(raw.parent.glob(".circles.*"))) == 1
    living.kill()
    living.communicate()
    finished.stage("download@circles")
    assert sorted(path.name for path in raw.parent.iterdir()) == ["blobs", "circles", "digits", "line"]


@pytest.mark.parametrize(("rename", "left"), [("1", ["data"]), ("2", [])])
def test_a_kill_at_any_rename_loses_nothing(folder: Path, rename: str, left: list[str]) -> None:
    assert goes_on(writer(folder, rename)) == -signal.SIGKILL
    assert [path.name for path in folder.parent.iterdir() if not path.name.startswith(".")] == left
    with pytest.raises(KeyError), atomic_folder(folder):
        raise KeyError("this one does not end well either")
    assert [path.name for path in folder.iterdir()] == ["old.txt"]
    with atomic_folder(folder) as partial:
        (partial / "mine.txt").write_text("whole")
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_file_is_written_whole_and_leaves_nothing_beside_it(folder: Path) -> None:
    for content in (b"first", b"second"):
        write_atomically(folder / "some.json", content)
        assert (folder / "some.json").read_bytes() == content
    assert list(folder.parent.iterdir()) == [folder]
    assert sorted(path.name for path in folder.iterdir()) == ["old.txt", "some.json"]


def test_where_no_byte_can_be_written_stages_and_commands_say_so_and_lose_nothing(finished: Project) -> None:
    """The limit on a file's size fails as a full disk does, where only the error's number differs."""
    photos = finished.folder / "photos"
    for number, name in enumerate(("cats", "dogs")):
        (photos / name).mkdir(parents=True)
        for shade in range(8):
            pixels = np.random.default_rng(shade).integers(0, 255, (32, 32, 3), np.uint8) // (number + 1)
            Image.fromarray(pixels).save(photos / name / f"{shade}.png")
    before = {file: finished.read(file) for file in ("params.yaml", "dvc.lock")}
    commands = [f"-m tasks.{kind} digits" for kind in ("download", "split", "transform")]
    for command in (*commands, "-m flows.cli add-images pets photos"):
        done = finished.run("sh", "-c", f"ulimit -f 1; exec python {command}", check=False)
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stdout
        assert " cannot write" in done.stdout
        assert "File too large; nothing is half written: make room or give the right to write" in done.stdout
    assert "trackway add-images cannot write data/raw/.pets." in done.stdout
    assert {file: finished.read(file) for file in before} == before
    assert not list((finished.folder / "data/raw").glob("*pets*"))
    assert "up to date" in finished.run("dvc", "status", "transform@digits", "split@digits", "download@digits").stdout
