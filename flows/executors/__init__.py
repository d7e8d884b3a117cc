"""Where the process of a stage runs: cold, by itself, or warm, in a fork of a process that has all libraries."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.warm import connect, place

WORTH_IT = 3  # stages; the imports take as long as these do
PATIENCE = 5.0  # seconds until it listens


@contextmanager
def preloaded() -> Iterator[bool]:
    """A warm process for the stages of a flow, which ends with it; False if one is there (that of `trackway up`), or if
    none is wanted. If it does not start, the stages run cold."""
    if (where := place()) is None or answers():
        yield False
        return
    socket = Path(where)
    socket.unlink(missing_ok=True)  # of one that was killed
    log = Path(".dvc/tmp/warm.log")
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-m", "flows.executors.warm", where],
            stdin=subprocess.PIPE,  # its lifeline: it ends with this process
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ),
    ):
        deadline = time.monotonic() + PATIENCE
        while not socket.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        yield True


def answers() -> bool:
    """Whether a warm process listens for the stages of this folder."""
    if server := connect(place()):
        server.close()
    return server is not None
