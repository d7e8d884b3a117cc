"""How a process of ours uses memory and ends."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    pass


def collect_garbage_rarely() -> None:
    """Imports of large libraries make millions of objects and no garbage; looking for it is a quarter of their time."""
    gc.set_threshold(100_000, 20, 100)


def end_at_once(code: int = 0) -> NoReturn:
    """Ends a process whose work is done. Python would first take apart all that torch and MLflow made: 0.7 seconds."""
    run_exit_functions()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_exit_functions() -> None:
    """Calls what was registered with atexit, as Python does when a process ends. A private function of CPython."""
    atexit._run_exitfuncs()
