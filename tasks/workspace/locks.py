"""One process at a time: at work on a stage, or whatever a lock stands for."""

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


STAGE_LOCKS = Path(".dvc/tmp/stages")  # a lock for each stage


def one_process_per_stage(kind: str, name: str) -> AbstractContextManager[None]:
    """One process at a time works on a stage in this folder, whoever started it."""
    if not STAGE_LOCKS.parent.parent.is_dir():
        return nullcontext()  # not DVC's folder
    from filelock import FileLock

    STAGE_LOCKS.mkdir(parents=True, exist_ok=True)
    waiting = f"{kind} {name}: another process is at work on this stage; waiting for it to end"
    return one_at_a_time(FileLock(STAGE_LOCKS / f"{kind}-{quote(name, safe='')}.lock"), lambda: print(waiting))


@contextmanager
def one_at_a_time(lock: FileLock, say_waiting: Callable[[], object]) -> Iterator[None]:
    """Holds the lock, and says so where it has to wait. The lock is the operating system's, so a kill releases it."""
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
    """Meanwhile the stage waits for another one, and its flow's clock stands: the file that the flow named is there."""
    file = Path(os.environ.get(WAITING, os.devnull))
    if file == Path(os.devnull):
        yield
        return
    file.touch()
    try:
        yield
    finally:
        file.unlink()
