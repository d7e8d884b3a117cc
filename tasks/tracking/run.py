"""Sends what happens in a training to its run in MLflow, without importing MLflow in the training process.

`TrainingRun` sends each message to a separate process (writer.py), which imports MLflow while this process imports
torch, and writes while the next epoch is trained. If that process's standard input closes without a last message,
training was killed, and the run is marked KILLED.
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
from typing import Any

from learn.errors import TrackingError
from tasks.tracking.address import address
from tasks.tracking.liveness import now_ms
from tasks.tracking.messages import Begin, End, Epoch, Epochs, Files, Message, encode
from tasks.tracking.names import Store
from tasks.tracking.store import STORE_HINT
from tasks.workspace.environment import TRACKING

SEND_INTERVAL_SECONDS = 1.0  # epochs that end within this time go into one message, so that sending does not slow them
STORE_FAILED = f"the run could not be written to MLflow; its message stands above ({STORE_HINT})"


class TrainingRun:
    """The run of a training; use it as a context manager. Without a store it does nothing.

    Args:
        store: The store; None tracks nothing.
        dataset: Name of the dataset.
        experiment: Name of the experiment.

    Raises:
        TrackingError: The address is not valid, or, when the block ends, the run could not be written.
    """

    def __init__(self, store: Store | None, dataset: str, experiment: str) -> None:
        self._writer: subprocess.Popen[str] | None = None
        self._epochs: list[Epoch] = []  # not sent yet
        self._seed: int | None = None  # the seed whose epochs they are
        self._sent_at = 0.0
        if store:
            address(store.uri)  # reports an environment variable that is not set before any work
            command = [sys.executable, "-m", "tasks.tracking.writer", dataset, experiment, store.project or ""]
            environment = os.environ | {TRACKING: store.uri}
            # In a process group of its own, so that Ctrl-C in the terminal reaches only the training.
            self._writer = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment, process_group=0)
            self._sender = ThreadPoolExecutor(1)  # writing blocks while the pipe is full and its reader still imports
            self._sent: deque[Future[None]] = deque()

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Returns when MLflow has everything, or when the rest is kept on disk; otherwise raises TrackingError."""
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

    def begin(self, params: dict[str, Any], tags: dict[str, str], summary: str, seed: int | None = None) -> None:
        """Sends what is known before the first epoch.

        Args:
            params: Flattened settings.
            tags: Tags for the run.
            summary: torchinfo's summary of the model, as text.
            seed: The seed whose run it is, below the experiment's own run, which has begun; None for the own run.
        """
        self._send(Begin(params, tags, summary, seed, 0 if seed is None else now_ms()))

    def log_epoch(self, number: int, metrics: dict[str, float], seed: int | None = None) -> None:
        """Sends an epoch's metrics, at most once per SEND_INTERVAL_SECONDS together with those before.

        Args:
            number: Counted from 1.
            metrics: By their full names, such as `train/loss`.
            seed: The same as in `begin`.
        """
        if seed != self._seed:
            self._send()
            self._seed = seed
        self._epochs.append(Epoch(number, now_ms(), metrics))
        if time.monotonic() - self._sent_at > SEND_INTERVAL_SECONDS:
            self._send()

    def finish(self, models: Path, history: Path, seconds: float | None) -> None:
        """Sends the files that training wrote, and the time that the epochs took."""
        self._send(Files.of(models, history, seconds))

    def finish_seed(self, seed: int, models: Path, history: Path, seconds: float | None, time: int) -> None:
        """Sends the files of one of several seeds, and ends its run.

        Args:
            seed: The seed.
            models: The folder with its state_dict.
            history: Its file with the metrics of each epoch.
            seconds: The time that its epochs took; None if they are of an earlier training.
            time: When its last epoch ended, in milliseconds since 1970.
        """
        self._send(Files.of(models, history, seconds, seed), End("FINISHED", time, seed))

    def _send(self, *messages: Message) -> None:
        """Sends the epochs that have not been sent yet, then the messages."""
        if self._epochs:
            messages = (Epochs(self._epochs, self._seed), *messages)
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
