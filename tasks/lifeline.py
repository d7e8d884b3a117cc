"""Ends a process together with the one that started it, even if that one is killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from tasks.workspace.environment import LIFELINE

BY_DVC = "DVC_STAGE"  # the environment variable in which DVC names the stage that it runs
POLL_SECONDS = 0.5  # seconds between two looks at whether DVC, which started the stage, has ended


def end_with_starter() -> None:
    """Starts threads that end this process (SIGTERM) when the flow or the DVC process that started it ends.

    A flow gives its stages a pipe as standard input, which closes when the flow ends. DVC is the parent process, or the
    parent of the shell in which DVC runs the stage.
    """
    if os.environ.get(LIFELINE):
        threading.Thread(target=_wait_for_flow, daemon=True).start()
    if os.environ.get(BY_DVC):
        threading.Thread(target=_wait_for_dvc, daemon=True).start()


def _wait_for_flow() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_dvc() -> None:
    import psutil

    with suppress(psutil.Error):  # one of them is gone
        parent = psutil.Process(os.getppid())
        shell = parent if parent.name() == Path(os.environ.get("SHELL") or "/bin/sh").name else None
        dvc = shell.ppid() if shell else parent.pid
        while os.getppid() == parent.pid and (shell is None or shell.ppid() == dvc):
            time.sleep(POLL_SECONDS)
    with suppress(OSError):
        print("error: DVC, which started this stage, has ended; so does the stage", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)
