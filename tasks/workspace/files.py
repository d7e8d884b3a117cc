"""Writes files and folders whole or not at all, even if a process is killed or a disk is full."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from learn.errors import DataError

if TYPE_CHECKING:
    import numpy as np


DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
)  # the numbers of the errors of a full or read-only disk


def cannot_write(what: str, error: OSError) -> str:
    """Returns the message of an error in DISK_ERRORS.

    Args:
        what: The stage or command that met the error.
        error: The error.
    """
    file = error.filename2 or error.filename  # a copy reads the first file and writes the second
    return (
        f"{what} cannot write{f' {file}' if file else ''}: {error.strerror}; "
        "nothing is half written: make room or give the right to write, and run it again"
    )


def write_atomically(file: Path, content: bytes) -> None:
    """Writes a file whole or not at all, even if the power fails."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # The scratch folder is not beside the file, whose folder may be an output or an input of some stage.
    with scratch(file.parent.parent, f"{file.parent.name}-{file.name}") as folder:
        partial = folder / file.name
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)


def write_result(option: str, file: Path, content: bytes) -> None:
    """Writes a file that a user named, wherever it is, whole or not at all.

    Args:
        option: The option that names it, such as `--out`, for the message.
        file: The file.
        content: What it is to hold.

    Raises:
        DataError: The file is a folder, or its path cannot be one.
    """
    try:
        if file.is_dir():
            raise DataError(f"{option} is {file}, a folder; give the name of a file in it")
        with scratch(file.parent, file.name) as folder:
            (folder / file.name).write_bytes(content)
            (folder / file.name).replace(file)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise
        raise DataError(f"{option} is {file}, which cannot be a file: {error.strerror}; give another name") from None


def save_array(file: Path, array: np.ndarray) -> None:
    """Saves an array as `np.save` does, except that a full disk raises an OSError with its errno."""
    import numpy as np

    with file.open("wb") as stream:
        np.save(SimpleNamespace(write=stream.write), array)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields a new folder to write into, which replaces the old one when the block ends without an error.

    Two processes may replace the same folder at once: each writes into its own new folder, and the last to end wins.
    """
    with scratch(folder.parent, folder.name) as partial:
        yield partial
        _swap(partial, folder)


@contextmanager
def scratch(parent: Path, name: str) -> Iterator[Path]:
    """Yields a folder `.NAME.….partial` for this process only, on the disk of its parent, and removes it at the end.

    The folder is locked as long as this process lives. So the folders of that name that killed processes left can be
    recognised, and are removed first; an old folder that a killed process had moved away is put back.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _clean_up(parent, name)
    while True:
        folder = _unique(parent, name)
        folder.mkdir()
        if (lock := _lock(folder, wait=True)) is not None or folder.exists():  # some network disks have no locks
            break  # otherwise another process removed the folder before it was locked
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


REPLACED = ".old"  # part of the name of a folder that is about to be replaced


def _unique(parent: Path, name: str, kind: str = "") -> Path:
    return parent / f".{name}.{uuid.uuid4().hex[:12]}{kind}.partial"


def _swap(new: Path, folder: Path) -> None:
    """Replaces a folder by a new one; until that is in its place, the old one is whole, there or beside it."""
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
        shutil.rmtree(old, ignore_errors=True)  # another process put its own folder there in between
    shutil.rmtree(old, ignore_errors=True)


def _clean_up(parent: Path, name: str) -> None:
    """Removes the folders that killed processes left; a locked one belongs to a living process."""
    for left in sorted(parent.glob(f".{glob.escape(name)}.*.partial")):
        if (lock := _lock(left)) is not None:
            if left.stem.endswith(REPLACED) and not (parent / name).exists():
                with suppress(OSError):
                    left.rename(parent / name)
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path, wait: bool = False) -> int | None:
    """Opens and locks a folder, and returns its descriptor; None if another process has locked or removed it."""
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
    """Returns the sha256 of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def sha256_of(files: Sequence[Path]) -> str:
    """Returns the sha256 of a file's content, or of several files' sha256 one after the other."""
    digests = [sha256(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def samples_md5(folder: Path, part: str) -> str:
    """Returns the md5 of a split's inputs and targets."""
    digest = hashlib.md5(usedforsecurity=False)
    for kind in ("inputs", "targets"):
        with (folder / f"{part}-{kind}.npy").open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()
