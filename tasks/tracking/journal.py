"""What is still to be told to MLflow about a run, on disk until MLflow has it: mlruns/undelivered/EXPERIMENT-KEY.jsonl.

The first line says which run it is, each other line is a message of its training (run.py). The process that
writes the run holds the file's lock while it lives; whoever gets the lock later delivers what is left.
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
    return project_folder() / "mlruns" / "undelivered"


class Journal:
    """A file with an exclusive lock on it (flock: a kill releases it)."""

    def __init__(self, file: Path, stream: IO[str]) -> None:
        self.file = file
        self.is_whole = True  # False after a line could not be written: the disk is full
        self._stream = stream

    @classmethod
    def create(cls, header: RunHeader) -> Journal:
        """A new journal of a run, locked. Raises OSError."""
        folder().mkdir(parents=True, exist_ok=True)
        file = folder() / f"{header.experiment}-{header.key}.jsonl"
        partial = file.with_suffix(".partial")  # until it is locked nobody may take it for one that was left
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
        """Those that nobody holds any more, one after the other."""
        for file in sorted(folder().glob("*.jsonl")):
            if not (file.is_file() and os.access(file, os.R_OK | os.W_OK)):
                continue  # a folder, or another account's
            with suppress(FileNotFoundError), file.open("r+", encoding="utf-8") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if file.stat().st_ino == os.fstat(stream.fileno()).st_ino:  # it was not delivered meanwhile
                    yield cls(file, stream)

    def append(self, line: str) -> None:
        """A message. A full disk is no error yet: MLflow may take everything, and then nothing is to be kept."""
        try:
            self._stream.write(line)
            self._stream.flush()
        except OSError:
            self.is_whole = False

    def read(self) -> tuple[RunHeader, list[Message]]:
        """The header and the messages, but for a last line that a kill cut short. Raises ValueError, KeyError or
        TypeError if it holds something else."""
        self._stream.seek(0)
        header, *messages = [line for line in self._stream if line.endswith("\n")]
        return decode_header(header), [decode(line) for line in messages]

    @property
    def written_at(self) -> int:
        """When the last message came, in milliseconds since 1970."""
        return int(os.fstat(self._stream.fileno()).st_mtime * 1000)

    def delete(self) -> None:
        self.file.unlink(missing_ok=True)
        with suppress(OSError):  # what a full disk did not take, it tries to write once more
            self._stream.close()
