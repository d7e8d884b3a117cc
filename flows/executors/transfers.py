"""Moves the outputs of single stages between a folder, DVC's cache and DVC's remote, without looking at the others.

`dvc fetch` and `dvc push` look at all stages of the graph first, which takes a second if there are many.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from learn.errors import ServerError
from tasks.tracking.address import redacted
from tasks.workspace.files import DISK_ERRORS

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB
    from dvc_data.hashfile.hash_info import HashInfo


def fetch(repo: Repo, outs: Iterable[Output]) -> int:
    """Brings outputs, as dvc.lock has them, from the remote into the folder; DVC's cache keeps them.

    Returns:
        The number of bytes that came from the remote; what the cache has does not come again.

    Raises:
        ServerError: The remote does not answer, refuses, or lacks some of them.
    """
    if not (outs := list(outs)):
        return 0
    with _told() as reasons:
        remote = _remote(repo)
        lists = repo.cloud.pull({out.hash_info for out in outs}, odb=remote)  # else DVC does not say why it has no list
        moved = repo.cloud.pull(_objects(outs), odb=remote)
        if moved.failed:
            what = ", ".join(out.def_path for out in outs)
            raise ServerError(f"{len(moved.failed)} files of {what} did not come{reasons}")
        for out in outs:
            out.checkout(force=True)
    return _size(repo, lists.transferred | moved.transferred)


def push(repo: Repo, outs: Iterable[Output]) -> int:
    """Pushes outputs to the remote, without what it has.

    Returns:
        The number of bytes moved.

    Raises:
        ServerError: The remote does not answer, refuses, or did not take some of them.
    """
    with _told() as reasons:
        moved = repo.cloud.push(_objects(outs), odb=_remote(repo))
        if moved.failed:
            raise ServerError(f"{len(moved.failed)} files could not be pushed{reasons}")
    return _size(repo, moved.transferred)


class _Reasons(logging.Filter):
    """Keeps why single files could not be moved, which DVC only logs, with tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns False for what is kept."""
        error = record.exc_info[1] if record.exc_info else None
        if error:
            self.found.append(_text(error))
        return not error

    def __str__(self) -> str:
        return f": {self.found[0]}" if self.found else ""


@contextmanager
def _told() -> Iterator[_Reasons]:
    """Turns the errors of DVC and of the remotes' libraries, which have no class in common, into a ServerError.

    Yields:
        Why files could not be moved so far, as the end of a message.
    """
    reasons, log = _Reasons(), logging.getLogger("dvc_data.hashfile.transfer")
    log.addFilter(reasons)
    try:
        yield reasons
    except ServerError:
        raise
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise ServerError(f"DVC's remote: {_text(error)}") from error
        raise ServerError(_text(error)) from error
    except Exception as error:
        raise ServerError(f"DVC's remote: {_text(error)}{reasons}") from error
    finally:
        log.removeFilter(reasons)


def _text(error: BaseException) -> str:
    return redacted(" ".join(str(error).split())) or type(error).__name__


_remotes: WeakKeyDictionary[Repo, HashFileDB] = WeakKeyDictionary()


def _remote(repo: Repo) -> HashFileDB:
    """Returns the default remote; for S3 a new one takes half a second, and DVC itself makes one for each call."""
    if repo not in _remotes:
        _remotes[repo] = repo.cloud.get_remote_odb()
    return _remotes[repo]


def _objects(outs: Iterable[Output]) -> set[HashInfo]:
    return {info for out in outs for infos in out.get_used_objs().values() for info in infos}


def _size(repo: Repo, infos: Iterable[HashInfo]) -> int:
    files = (Path(repo.cache.local.oid_to_path(info.value)) for info in infos)
    return sum(file.stat().st_size for file in files if file.exists())
