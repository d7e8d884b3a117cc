"""Ends what an earlier start of a server left behind, then becomes the server: python -m flows.afresh COMMAND...

Where MLflow's server is killed, the worker below it lives on and holds the port; its successor could never start.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import psutil

MARK = "TRACKWAY_SERVERS"  # the environment variable by which the processes of one `up` are known
NAME = "SUPERVISOR_PROCESS_NAME"  # supervisord's


def main() -> None:
    me = {key: os.environ.get(key) for key in (MARK, NAME)}
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environment = process.environ()
            if process.pid != os.getpid() and all(environment.get(key) == value for key, value in me.items()):
                process.kill()
                left.append(process)
    psutil.wait_procs(left, timeout=10)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


if __name__ == "__main__":
    main()
