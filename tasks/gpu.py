"""A GPU works for one stage at a time, and its memory may run out: a lock for the one, a message for the other."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from learn.errors import DeviceError
from tasks.workspace.locks import not_counted

if TYPE_CHECKING:
    import torch


@contextmanager
def alone_on_gpu(stage: str, device: torch.device) -> Iterator[None]:
    """One stage at a time on a GPU, whichever account starts it; prints a line if it has to wait. A CPU has no lock.

    The accounts must share the folder for temporary files. The lock is the operating system's, so a kill releases it.
    """
    if device.type == "cpu":
        yield
        return
    import torch

    gpu = torch.cuda.get_device_properties(device).uuid if device.type == "cuda" else device.type
    lock = _opened(Path(tempfile.gettempdir()) / f"trackway-gpu-{gpu}.lock")
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{stage}: another stage is on {device}; waiting for it to end")
            with not_counted():
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _opened(file: Path) -> int:
    """A descriptor of a file that every account may lock: to lock needs no right to write.

    In a shared folder the kernel lets nobody open another account's file with O_CREAT (fs.protected_regular), so the
    file is opened without it. A link that somebody laid there is not followed.
    """
    lock = None
    try:
        while lock is None:
            try:
                lock = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                _create(file)
        if not stat.S_ISREG(os.fstat(lock).st_mode):
            raise FileExistsError(None, "it is no ordinary file")
    except OSError as error:
        if lock is not None:
            os.close(lock)
        raise DeviceError(
            f"the lock {file} cannot be opened: {error.strerror}; remove it, or set TMPDIR to another folder"
        ) from None
    return lock


def _create(file: Path) -> None:
    """An empty file that every account may read, whatever the umask. It is whole when it appears."""
    with tempfile.NamedTemporaryFile(dir=file.parent) as new:
        os.fchmod(new.fileno(), 0o444)
        with suppress(FileExistsError):
            os.link(new.name, file)


@contextmanager
def memory_told(what: str, device: torch.device, advice: Callable[[], str]) -> Iterator[None]:
    """Raises DeviceError if the device's memory runs out. what: the message's beginning; advice: its end.

    Before advice is called, the tensors of the step that failed are freed.
    """
    import torch

    try:
        yield
        return
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        traceback.clear_frames(error.__traceback__)  # whoever handles the exception holds it, and so its frames' locals
    free_memory(device)
    raise DeviceError(f"{what}: {device} has not enough memory ({reason}); {advice()}")


def free_memory(device: torch.device) -> None:
    """Gives back to the device what torch keeps of freed tensors."""
    import torch

    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
