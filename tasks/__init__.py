"""One file per stage (download, split, transform, train, evaluate, register); all side effects of stages are here."""

import os
import sys

if sys.platform == "win32":
    sys.exit("error: Trackway runs on Linux and macOS; on Windows, run it inside WSL (learn.microsoft.com/windows/wsl)")

# Idle threads of NumPy and SciPy sleep at once; by default each is busy for 0.1 s first, in every new process.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

if sys.argv[:1] == ["-m"]:  # in `python -m tasks.STAGE`, before anything else is imported
    module = next((word for word in sys.orig_argv if word.startswith("tasks.")), "")
    if module not in ("", "tasks.warm"):
        from tasks.warm import begin

        begin(module)
