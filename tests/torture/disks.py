"""A disk that runs full: a clear error, and with room again all ends as if nothing had happened.

The folder that runs full is a tmpfs of its own, with what was in it and a part of the room that the work needs.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.support.project import Project
from tests.torture.common import Ground, Lost, Scenario, rerun_as_undisturbed, start, tail
from tests.torture.kills import BETTER, REPRO

PAGE = 4096  # of a tmpfs: a file takes whole pages
MOUNTED = """
mount -t tmpfs -o size="$1" none "$2" && cp -a "$3/." "$2" || exit 99
folder=$2 beside=$3
shift 3
"$@"
code=$?
rm -rf "$beside" && cp -a "$folder" "$beside"
exit $code
"""


@dataclass(frozen=True)
class Disk:
    folder: str
    settings: dict[str, Any]  # the change in params.yaml that makes work
    command: tuple[str, ...]
    replaced: tuple[str, ...] = ()  # folders in it that the work writes anew, after DVC has removed them

    def runs_full(self, ground: Ground, random: Random) -> None:
        work = ground.changed("digits", self.settings, *self.command)
        project = ground.copy(work.start)
        for each in self.replaced:
            shutil.rmtree(project.folder / each)
        stays = pages(project.folder / self.folder)
        needed = pages(work.after.folder / self.folder) - stays
        room = int(random.uniform(0, 0.9) * needed)
        print(f"room for {room * PAGE // 1024} of {needed * PAGE // 1024} kB", end=" ", flush=True)
        code, log = self.run_on_it(project, (stays + room) * PAGE)
        evidence = f"the command that had no room said:\n{tail(log)}"
        if code == 0 or "Traceback" in log or not says_so(log):
            raise Lost(f"it ended with {code}, which is no clear error\n{evidence}")
        try:
            rerun_as_undisturbed(project, work)
        except Lost as lost:
            raise Lost(f"{lost}\n{evidence}") from None

    def run_on_it(self, project: Project, size: int) -> tuple[int, str]:
        """Runs the command where the folder is a disk of its own; afterwards it holds what was on that disk."""
        folder = project.folder / self.folder
        beside = folder.with_name("disk.partial")
        folder.rename(beside)
        folder.mkdir()
        unshare = ("unshare", "-rm", "sh", "-c", MOUNTED, "sh", str(size), str(folder), str(beside))
        command = start(project, (*unshare, *self.command))
        code = command.end()
        folder.rmdir()
        beside.rename(folder)
        if code == 99 or shutil.which("unshare") is None:
            pytest.skip("this system allows no mounts without privileges")
        return code, command.log


def pages(folder: Path) -> int:
    return sum(math.ceil(file.lstat().st_size / PAGE) for file in folder.rglob("*") if file.is_file())


def says_so(log: str) -> bool:
    words = ("No space left on device", "database or disk is full")
    return any(word in line for line in log.splitlines() for word in words if "error" in line.lower())


NEW_SPLIT = {"datasets.digits.split.seed": 43}
SPLIT = ("data/split/digits", "data/transformed/digits")
DISKS = [
    Disk("mlruns", BETTER, REPRO),
    Disk("models", BETTER, REPRO, ("models/digits-mlp",)),
    Disk("data", NEW_SPLIT, ("dvc", "repro", "transform@digits"), SPLIT),
    Disk(".dvc/cache", BETTER, REPRO),
]
SCENARIOS = [Scenario(f"a full disk below {disk.folder}", 3, disk.runs_full) for disk in DISKS]
