"""Lets one stage at a time use a GPU, and turns an exhausted GPU memory into a message with advice."""

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
from tasks.torchrun import is_rank
from tasks.workspace.environment import SHARED_GPU
from tasks.workspace.locks import not_counted

if TYPE_CHECKING:
    import torch


@contextmanager
def alone_on_gpu(stage: str, device: torch.device) -> Iterator[None]:
    """Holds the GPU's lock, so that one stage at a time uses it; prints a line if it has to wait.

    The lock is shared by all accounts that have the same folder for temporary files. The operating system releases it
    if the process is killed. A CPU has no lock.

    Args:
        stage: Name of the stage, for messages.
        device: The device to lock.

    Raises:
        DeviceError: The lock's file cannot be opened.
    """
    # The process that started the ranks holds the locks of their GPUs; a cluster may place several stages on one GPU.
    if device.type == "cpu" or is_rank() or SHARED_GPU in os.environ:
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
    """Opens, for reading, a file that every account may lock; a lock needs no right to write.

    In a shared folder the kernel forbids opening another account's file with O_CREAT (fs.protected_regular), so the
    file is opened without it. A symbolic link is not followed.
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
    """Creates an empty file that every account may read, even with a strict umask; it has its mode when it appears."""
    with tempfile.NamedTemporaryFile(dir=file.parent) as new:
        os.fchmod(new.fileno(), 0o444)
        with suppress(FileExistsError):
            os.link(new.name, file)


@contextmanager
def memory_told(what: str, device: torch.device, advice: Callable[[], str]) -> Iterator[None]:
    """Raises DeviceError if the device's memory runs out in the block.

    Args:
        what: The beginning of the message.
        device: The device that is used in the block.
        advice: Returns the end of the message; called after the tensors of the block have been freed.
    """
    import torch

    try:
        yield
        return
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        traceback.clear_frames(error.__traceback__)  # the exception would keep the local variables of its frames alive
    free_memory(device)
    raise DeviceError(f"{what}: {device} has not enough memory ({reason}); {advice()}")


def free_memory(device: torch.device) -> None:
    """Returns the memory of freed tensors, which torch keeps, to the device."""
    import torch

    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
