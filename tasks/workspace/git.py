"""What git's last commit does not say of the code that runs: the uncommitted changes, as a patch."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

# What can change a run. dvc.lock follows from it, and is changed by each run.
PATHS = ("*.py", "params.yaml", "dvc.yaml", ":(exclude)tests", ":(exclude)bench")
MOST = 1_000_000  # characters of the patch


def uncommitted() -> str | None:
    """A patch against the last commit, with files that git does not know yet; "" without changes.

    None if that cannot be said: no git, no repository, no commit.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            index = Path(folder) / "index"  # a copy, in which new files can be announced
            original = Path(_git("rev-parse", "--git-path", "index").strip())
            if original.is_file():
                shutil.copyfile(original, index)
            with suppress(subprocess.CalledProcessError):  # of one file, or of an empty repository in the folder
                _git("add", "--intent-to-add", "--ignore-errors", "--", ".", *PATHS[3:], index=index)
            patch = _git("diff", "--no-color", "--no-ext-diff", "HEAD", "--", *PATHS, index=index)
    except (OSError, subprocess.CalledProcessError):
        return None
    return patch if len(patch) <= MOST else f"{patch[:MOST]}\n[{len(patch) - MOST:,} more characters are cut off]\n"


def _git(*arguments: str, index: Path | None = None) -> str:
    environment = os.environ | ({"GIT_INDEX_FILE": str(index)} if index else {})
    done = subprocess.run(
        ["git", *arguments], env=environment, capture_output=True, text=True, errors="replace", check=True
    )
    return done.stdout
