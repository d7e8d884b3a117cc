"""The work folders of a node: a stage has one for itself, and the next stage with the same code takes it over."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import IO

import psutil

NEARLY_FULL = 0.2  # part of a disk that is free when it counts as nearly full
KEPT_DAYS = 7.0  # days after which the work folders of other code are removed
OUTPUTS = ("data/experiments", "data/raw", "data/split", "data/transformed", "models", "metrics", "plots")
WEIGHTS = "data/raw/_weights"  # no stage's output; a link to the node's folder with pretrained weights


@contextmanager
def work_folder(folder: Path, code: Path) -> Iterator[Path]:
    """Yields a work folder with the flow's code that no other stage uses; outputs are removed before and afterwards.

    Args:
        folder: The node's folder.
        code: Where Ray has unpacked the flow's code; its name depends on its content.
    """
    place = folder / "work" / code.name
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.utime(place)
    _remove_old(place)
    for number in count():
        work, lock = place / str(number), (place / f"{number}.lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if _has_processes(work):  # they are about to end, for their worker was killed
                continue
            with (folder / "stages.lock").open("w") as stages:
                fcntl.flock(stages, fcntl.LOCK_SH)
                if not work.is_dir():
                    _copy_code(code, work, folder)
                _remove_outputs(work)
                try:
                    yield work
                finally:
                    _remove_outputs(work)
                    _remove_partial(folder, stages)
            return


def keep_undelivered(folder: Path, work: Path, origin: str) -> None:
    """Has a stage keep the runs that MLflow does not take where later stages of the same origin find them.

    These may have other code, and so another work folder.

    Args:
        folder: The node's folder.
        work: The stage's work folder.
        origin: The folder from which the code comes, with its machine.
    """
    place = folder / "undelivered" / sha256(origin.encode()).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    link = work / "mlruns/undelivered"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(place)


def take_undelivered(work: Path) -> dict[str, str]:
    """Removes the kept runs that no other stage writes, and returns name of a file → its text."""
    taken = {}
    for file in sorted((work / "mlruns/undelivered").glob("*.jsonl")):
        with suppress(BlockingIOError, FileNotFoundError), file.open(encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            text = stream.read()
            file.unlink()
            taken[file.name] = text
    return taken


def _has_processes(work: Path) -> bool:
    """Returns whether a process is at work in a folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(work):
                return True
    return False


def _copy_code(code: Path, work: Path, folder: Path) -> None:
    partial = work.with_name(f".{work.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(code, partial, symlinks=True)
    except shutil.Error as error:
        shutil.rmtree(partial, ignore_errors=True)
        if (full := os.strerror(errno.ENOSPC)) not in str(error):
            raise
        raise OSError(errno.ENOSPC, full, str(partial)) from None
    (partial / ".dvc/tmp").mkdir(parents=True, exist_ok=True)
    config = f"[core]\n    no_scm = true\n    site_cache_dir = {work}/.dvc/site\n"
    config += f'[cache]\n    dir = {folder}/cache\n    type = "reflink,hardlink,symlink,copy"\n'
    (partial / ".dvc/config.local").write_text(config, encoding="utf-8")
    (folder / "weights").mkdir(exist_ok=True)
    (partial / WEIGHTS).parent.mkdir(parents=True)
    (partial / WEIGHTS).symlink_to(folder / "weights")
    partial.rename(work)


def _remove_outputs(work: Path) -> None:
    for name in OUTPUTS:
        with suppress(FileNotFoundError):
            for path in (work / name).iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path != work / WEIGHTS:
                    path.unlink()


def _remove_partial(folder: Path, stages: IO[str]) -> None:
    """Removes what DVC had half written into its cache when the disk was full, if the disk is nearly full.

    Args:
        folder: The node's folder.
        stages: The file that all stages of the node have locked.
    """
    disk = shutil.disk_usage(folder)
    if disk.free > disk.total * NEARLY_FULL:
        return
    with suppress(BlockingIOError):  # another stage runs, and may write such a file
        fcntl.flock(stages, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for file in (folder / "cache/files/md5").glob("*/.*.tmp"):
            file.unlink(missing_ok=True)


def _remove_old(place: Path) -> None:
    """Removes the work folders of other code in which no stage has begun for KEPT_DAYS, and none still runs."""
    for other in place.parent.iterdir():
        with suppress(FileNotFoundError):  # another stage has just removed it
            if time.time() - other.stat().st_mtime > KEPT_DAYS * 86400 and not _has_processes(other):
                shutil.rmtree(other, ignore_errors=True)
