"""A training's run, as the training process sees it: MLflow is not imported here.

`TrainingRun` hands each message to a process of its own (writer.py), which imports MLflow while torch is imported and
writes while the next epoch is trained. Its standard input is also its lifeline: if it ends without a last message,
training was killed, and the run is marked so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from learn.errors import TrackingError
from tasks.tracking.address import address
from tasks.tracking.liveness import now_ms
from tasks.tracking.messages import Begin, End, Epoch, Epochs, Files, Message, encode
from tasks.tracking.store import STORE_HINT
from tasks.workspace.environment import TRACKING

if TYPE_CHECKING:
    pass


SEND_INTERVAL_SECONDS = 1.0  # seconds; a training of a thousand epochs a second does not wait for a thousand messages
STORE_FAILED = f"the run could not be written to MLflow; its message stands above ({STORE_HINT})"


class TrainingRun:
    """A run that is being trained. With uri None nothing is tracked, and nothing else changes."""

    def __init__(self, uri: str | None, dataset: str, experiment: str) -> None:
        self._writer: subprocess.Popen[str] | None = None
        self._epochs: list[Epoch] = []  # not sent yet
        self._sent_at = 0.0
        if uri:
            address(uri)  # a variable that is not set is told before any work
            command = [sys.executable, "-m", "tasks.tracking.writer", dataset, experiment]
            environment = os.environ | {TRACKING: uri}
            # In a group of its own: a Ctrl-C in the terminal is for the training.
            self._writer = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment, process_group=0)
            self._sender = ThreadPoolExecutor(1)  # a pipe holds little, and its reader may still be importing
            self._sent: deque[Future[None]] = deque()

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Returns when MLflow has everything, or when what it has not is kept on disk; else raises TrackingError."""
        if not self._writer:
            return
        if kind is None:
            self._send(End("FINISHED", now_ms()))
        elif not issubclass(kind, KeyboardInterrupt | TrackingError):
            self._send(End("FAILED", now_ms()))
        self._sender.shutdown()
        assert self._writer.stdin
        with suppress(BrokenPipeError):
            self._writer.stdin.close()
        if self._writer.wait() and kind is None:
            raise TrackingError(STORE_FAILED)

    def begin(self, params: dict[str, Any], tags: dict[str, str], summary: str) -> None:
        """params: flattened; tags: what else is known before the first epoch; summary: torchinfo's, as text."""
        self._send(Begin(params, tags, summary))

    def log_epoch(self, number: int, metrics: dict[str, float]) -> None:
        self._epochs.append(Epoch(number, now_ms(), metrics))
        if time.monotonic() - self._sent_at > SEND_INTERVAL_SECONDS:
            self._send()

    def finish(self, state_dict: Path, history: Path, seconds: float) -> None:
        """The files that training wrote, and how long the epochs took."""
        self._send(Files.of(state_dict, history, seconds))

    def _send(self, *messages: Message) -> None:
        """The epochs that have not been sent yet, then the messages."""
        if self._epochs:
            messages = (Epochs(self._epochs), *messages)
            self._epochs = []
        self._sent_at = time.monotonic()
        if self._writer:
            while self._sent and self._sent[0].done():
                self._sent.popleft().result()
            self._sent.append(self._sender.submit(self._write, "".join(encode(message) for message in messages)))

    def _write(self, lines: str) -> None:
        assert self._writer
        assert self._writer.stdin
        try:
            self._writer.stdin.write(lines)
            self._writer.stdin.flush()
        except BrokenPipeError:
            raise TrackingError(STORE_FAILED) from None
