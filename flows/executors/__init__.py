"""Runs stages cold, as new processes, or warm, as forks of a process that has imported all libraries."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.warm import connect, place

MIN_STAGES_FOR_WARM = 3  # smallest number of stages for which a warm process saves time
PRELOADING = "loading PyTorch, MLflow and DVC once for all stages"
SECONDS_UNTIL_LISTENING = 5.0  # seconds to wait until the warm process listens


@contextmanager
def preloaded() -> Iterator[bool]:
    """Starts a warm process for the stages in the block, and ends it afterwards.

    If it does not start, the stages run cold.

    Yields:
        False if no process was started, because one is there already (that of `trackway up`) or TRACKWAY_WARM is off.
    """
    if (where := place()) is None or answers():
        yield False
        return
    socket = Path(where)
    socket.unlink(missing_ok=True)  # a warm process that was killed may have left it
    log = Path(".dvc/tmp/warm.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-m", "flows.executors.warm", where],
            stdin=subprocess.PIPE,  # it ends when this pipe closes, at the latest with this process
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ),
    ):
        deadline = time.monotonic() + SECONDS_UNTIL_LISTENING
        while not socket.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        yield True


def answers() -> bool:
    """Returns whether a warm process listens for the stages of this folder."""
    if server := connect(place()):
        server.close()
    return server is not None
