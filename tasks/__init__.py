"""One file per stage: download, split, transform, train, evaluate, register. All side effects live here."""

import sys

if sys.platform == "win32":
    sys.exit("error: Trackway runs on Linux and macOS; on Windows, run it inside WSL (learn.microsoft.com/windows/wsl)")
