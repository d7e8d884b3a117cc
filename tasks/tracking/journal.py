"""Keeps the messages of a run on disk until MLflow has them, in mlruns/undelivered/EXPERIMENT-KEY.jsonl.

The first line says which run it is, each other line is a message of its training (run.py). The process that writes the
run holds the file's lock while it lives; the next process that gets the lock delivers what is left.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from tasks.tracking.address import project_folder
from tasks.tracking.messages import Message, RunHeader, decode, decode_header, encode_header


def folder() -> Path:
    """Returns the folder of all journals."""
    return project_folder() / "mlruns" / "undelivered"


class Journal:
    """A file of messages with an exclusive lock, which the operating system releases if the process is killed."""

    def __init__(self, file: Path, stream: IO[str]) -> None:
        self.file = file
        self.is_whole = True  # False once a line could not be written because the disk is full
        self._stream = stream

    @classmethod
    def create(cls, header: RunHeader) -> Journal:
        """Creates and locks the journal of a new run.

        Raises:
            OSError: The file cannot be written.
        """
        folder().mkdir(parents=True, exist_ok=True)
        file = folder() / f"{header.experiment}-{header.key}.jsonl"
        partial = file.with_suffix(".partial")  # until it is locked, other processes must not deliver it
        try:
            journal = cls(file, partial.open("w+", encoding="utf-8"))
            fcntl.flock(journal._stream, fcntl.LOCK_EX)
            journal._stream.write(encode_header(header))
            journal._stream.flush()
            partial.rename(file)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        return journal

    @classmethod
    def left(cls) -> Iterator[Journal]:
        """Yields the journals that no process holds any more, each locked while it is in use."""
        for file in sorted(folder().glob("*.jsonl")):
            if not (file.is_file() and os.access(file, os.R_OK | os.W_OK)):
                continue  # a folder, or a file of another account
            with suppress(FileNotFoundError), file.open("r+", encoding="utf-8") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if file.stat().st_ino == os.fstat(stream.fileno()).st_ino:  # otherwise it was delivered meanwhile
                    yield cls(file, stream)

    def append(self, line: str) -> None:
        """Appends a message's line; a full disk only clears `is_whole`, since MLflow may still get everything.

        Once the journal is deleted, lines are dropped: training sends them until it learns that its run has failed.
        """
        try:
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the file is closed
            self.is_whole = False

    def read(self) -> tuple[RunHeader, list[Message]]:
        """Returns the header and the messages, without a last line that a kill cut short.

        Raises:
            ValueError: The file holds something else.
            KeyError: The same.
            TypeError: The same.
        """
        self._stream.seek(0)
        header, *messages = [line for line in self._stream if line.endswith("\n")]
        return decode_header(header), [decode(line) for line in messages]

    @property
    def written_at(self) -> int:
        """When the last message came, in milliseconds since 1970."""
        return int(os.fstat(self._stream.fileno()).st_mtime * 1000)

    def delete(self) -> None:
        """Deletes and closes the file."""
        self.file.unlink(missing_ok=True)
        with suppress(OSError):  # closing tries again to write what a full disk did not take
            self._stream.close()
