"""Files and folders that are written whole or not at all, whenever a process is killed or a disk is full."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

import errno
import fcntl
import glob
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
)  # a full or read-only disk


def cannot_write(what: str, error: OSError) -> str:
    """The message of an error in DISK_ERRORS. what: the stage or command that met it."""
    file = error.filename2 or error.filename  # of a copy the second is written
    return (
        f"{what} cannot write{f' {file}' if file else ''}: {error.strerror}; "
        "nothing is half written: make room or give the right to write, and run it again"
    )


def write_atomically(file: Path, content: bytes) -> None:
    """The whole file or none of it, whenever the power goes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # not beside it: its folder may be an output or an input of some stage
    with scratch(file.parent.parent, f"{file.parent.name}-{file.name}") as folder:
        partial = folder / file.name
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)


def save_array(file: Path, array: np.ndarray) -> None:
    """`np.save`, but a full disk raises an OSError with its errno: into a file of its own NumPy writes without one."""
    import numpy as np

    with file.open("wb") as stream:
        np.save(SimpleNamespace(write=stream.write), array)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into; it takes the place of the old one when all is written.

    Two processes may do so at once: each writes into a folder of its own, and the last to end wins.
    """
    with scratch(folder.parent, folder.name) as partial:
        yield partial
        _swap(partial, folder)


@contextmanager
def scratch(parent: Path, name: str) -> Iterator[Path]:
    """A folder `.NAME.….partial` of this process alone, on the disk of its parent; removed at the end.

    It is locked as long as this process lives. So what others of that name were killed over is known, and removed
    first; an old folder that was out of its place in that moment is put back.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _clean_up(parent, name)
    while True:
        folder = _unique(parent, name)
        folder.mkdir()
        if (lock := _lock(folder, wait=True)) is not None or folder.exists():  # some network disks know no locks
            break  # otherwise another process found it before it was locked
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


REPLACED = ".old"  # in the name of a folder that is about to be replaced


def _unique(parent: Path, name: str, kind: str = "") -> Path:
    return parent / f".{name}.{uuid.uuid4().hex[:12]}{kind}.partial"


def _swap(new: Path, folder: Path) -> None:
    """Puts a folder in another's place. The old one is whole in its place, or beside it, until the new one is there."""
    old = _unique(folder.parent, folder.name, REPLACED)
    while True:
        with suppress(FileNotFoundError):
            folder.rename(old)
        try:
            new.rename(folder)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with suppress(OSError):
                    old.rename(folder)
                raise
        shutil.rmtree(old, ignore_errors=True)  # another process put its own there in between
    shutil.rmtree(old, ignore_errors=True)


def _clean_up(parent: Path, name: str) -> None:
    """Removes what killed processes left; what is locked belongs to a living one."""
    for left in sorted(parent.glob(f".{glob.escape(name)}.*.partial")):
        if (lock := _lock(left)) is not None:
            if left.stem.endswith(REPLACED) and not (parent / name).exists():
                with suppress(OSError):
                    left.rename(parent / name)
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path, wait: bool = False) -> int | None:
    """The open folder with the operating system's lock on it; None if another process has that, or removed it."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(opened), folder.stat()):
            return opened
    except OSError:
        pass
    os.close(opened)
    return None


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
