"""Returns the uncommitted changes of the code that runs, as a patch."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

# The files that can change a run; not dvc.lock, which each run changes.
PATHS = ("*.py", "params.yaml", "dvc.yaml", ":(exclude)tests", ":(exclude)bench")
MOST = 1_000_000  # largest number of characters of the patch


def uncommitted() -> str | None:
    """Returns a patch against the last commit, with files that git does not know yet; "" if nothing changed.

    Returns None without git, without a repository, or before the first commit.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            index = Path(folder) / "index"  # a copy of git's index, to which new files can be added
            original = Path(_git("rev-parse", "--git-path", "index").strip())
            if original.is_file():
                shutil.copyfile(original, index)
            with suppress(subprocess.CalledProcessError):  # git cannot add one of the files, or an empty repository
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
