"""Asks git: for the uncommitted changes of the code that runs, and for what earlier commits had."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tasks.workspace.origin import origin

# The files that can change a run; not dvc.lock, which each run changes.
PATHS = ("*.py", "params.yaml", "dvc.yaml", ":(exclude)tests", ":(exclude)bench")
COMMITS = 20  # largest number of commits that are looked at
MOST = 1_000_000  # largest number of characters of the patch


def uncommitted() -> str | None:
    """Returns a patch against the last commit, with files that git does not know yet; "" if nothing changed.

    Returns None without git, without a repository, or before the first commit. On a node of a cluster it is the patch
    of the folder from which the code came.
    """
    if there := origin():
        return there.uncommitted
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


def commits_of(path: str) -> Iterator[str]:
    """Yields the latest commits that changed a file or folder, newest first; none without git or a repository.

    Args:
        path: Below the working directory, which is the top of the repository or below it.
    """
    try:
        yield from _git("log", f"--max-count={COMMITS}", "--format=%H", "--", path).split()
    except (OSError, subprocess.CalledProcessError):
        return


def head() -> str:
    """Returns the last commit; "" without git, without a repository, or before the first commit."""
    try:
        return _git("rev-parse", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def subjects_since(commit: str) -> list[str] | None:
    """Returns the later commits below the working directory, newest first: their first digits and subject lines.

    Returns None without git, or if the repository does not have the commit.
    """
    try:
        return _git("log", "--format=%h %s", "--end-of-options", f"{commit}..HEAD", "--", ".").splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None


def files_of(commit: str, folder: str) -> dict[str, str]:
    """Returns path below a folder → md5 of the file's content in a commit."""
    entries = [entry.partition("\t") for entry in _git("ls-tree", "-r", "-z", commit, "--", f"{folder}/").split("\0")]
    files = {os.path.relpath(path, folder): about.split()[2] for about, _, path in entries if path}
    done = subprocess.run(
        ["git", "cat-file", "--batch"], input="\n".join(files.values()).encode(), capture_output=True, check=True
    )
    stream, found = io.BytesIO(done.stdout), {}
    for path in files:
        content = stream.read(int(stream.readline().split()[2]))
        stream.readline()  # the line feed behind the content
        found[path] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return found


def commit_with(text: str, file: str) -> str | None:
    """Returns the latest commit, of any branch, in which a file has a text; None if none has.

    Args:
        text: The text, in one line.
        file: Its path below the working directory.
    """
    try:
        changed = _git("log", "--all", "--format=%H", f"-S{text}", "--", file).split()  # it came, or it went
        return next((commit for commit in changed if text in file_at(commit, file)), None)
    except (OSError, subprocess.CalledProcessError):
        return None


def file_at(commit: str, file: str) -> str:
    """Returns the content of a file, whose path is below the working directory, in a commit; "" if it has none."""
    try:
        return _git("show", f"{commit}:./{file}")
    except subprocess.CalledProcessError:
        return ""


def _git(*arguments: str, index: Path | None = None) -> str:
    environment = os.environ | ({"GIT_INDEX_FILE": str(index)} if index else {})
    done = subprocess.run(
        ["git", *arguments], env=environment, capture_output=True, text=True, errors="replace", check=True
    )
    return done.stdout
