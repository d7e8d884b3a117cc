"""Lets one process at a time work on a stage, or on whatever a lock stands for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from tasks.workspace.environment import WAITING

if TYPE_CHECKING:
    from filelock import FileLock


STAGE_LOCKS = Path(".dvc/tmp/stages")  # the folder with a lock for each stage


def one_process_per_stage(kind: str, name: str) -> AbstractContextManager[None]:
    """Holds the lock of a stage, so that one process at a time works on it in this folder, whoever started it.

    Args:
        kind: The kind of stage, such as `train`.
        name: The name of its experiment or dataset.
    """
    if not STAGE_LOCKS.parent.parent.is_dir():
        return nullcontext()  # this folder does not use DVC
    from filelock import FileLock

    STAGE_LOCKS.mkdir(parents=True, exist_ok=True)
    waiting = f"{kind} {name}: another process is at work on this stage; waiting for it to end"
    return one_at_a_time(FileLock(STAGE_LOCKS / f"{kind}-{quote(name, safe='')}.lock"), lambda: print(waiting))


@contextmanager
def one_at_a_time(lock: FileLock, say_waiting: Callable[[], object]) -> Iterator[None]:
    """Holds a lock, which the operating system releases if the process is killed.

    Args:
        lock: The lock.
        say_waiting: Called if another process holds the lock, before waiting for it.
    """
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
    except Timeout:
        say_waiting()
        with not_counted():
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def not_counted() -> Iterator[None]:
    """Stops the flow's clock for this stage while the block waits for another stage.

    The file that the flow named in TRACKWAY_WAITING exists meanwhile.
    """
    file = Path(os.environ.get(WAITING, os.devnull))
    if file == Path(os.devnull):
        yield
        return
    file.touch()
    try:
        yield
    finally:
        file.unlink()
