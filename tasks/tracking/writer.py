"""The process that writes a training's run: `python -m tasks.tracking.writer DATASET EXPERIMENT PROJECT`.

The project is "" if params.yaml names none. The messages come on standard input, one JSON object on each line.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from learn.errors import StoreUnreachable, TrackingError
from tasks.tracking.address import address
from tasks.tracking.delivery import Delivery, open_store, run_header
from tasks.tracking.journal import Journal
from tasks.tracking.journal import folder as journals
from tasks.tracking.liveness import HEARTBEAT_SECONDS, mark_killed_runs, now_ms
from tasks.tracking.messages import End, Message, decode
from tasks.tracking.names import Store
from tasks.tracking.store import STORE_HINT, patience
from tasks.workspace.environment import TRACKING
from tasks.workspace.processes import collect_garbage_rarely, end_at_once

if TYPE_CHECKING:
    from mlflow import MlflowClient


SIGTERM_GRACE_SECONDS = 4.0  # time that the writer has after SIGTERM; a flow kills what has not ended after 5 seconds


def main() -> None:
    """Writes the run that the messages on standard input describe, until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the end of training ends this process
    signal.signal(signal.SIGTERM, lambda *_: None)  # Writer gets this signal through its wakeup pipe
    collect_garbage_rarely()
    dataset, experiment, project = sys.argv[1:]
    try:
        Writer(Store(os.environ[TRACKING], project or None), dataset, experiment).run()
    except BaseException as error:
        if isinstance(error, TrackingError):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # sys.exit would wait for the thread that reads
    end_at_once()


class Writer:
    """Brings a training's messages to MLflow as they come, and keeps them on disk until MLflow has them.

    A tracking server that does not answer is asked again as long as training goes on, and for `patience()` seconds
    after that. What it lacks then stays in the journal, and the next process that opens the store delivers it.
    """

    def __init__(self, store: Store, dataset: str, experiment: str) -> None:
        self.tracking, self.experiment = store.uri, experiment
        header = run_header(store, dataset, experiment)
        self.delivery = Delivery(self.tracking, header)
        try:
            self.journal = Journal.create(header)
        except OSError as error:
            shown = address(self.tracking).shown
            raise TrackingError(
                f"the MLflow store {shown} cannot be used: {error.strerror}: {journals()} ({STORE_HINT})"
            ) from error
        self.messages: SimpleQueue[Message | None] = SimpleQueue()  # None comes after the last message
        self.message: Message | None = None  # the message that is being delivered
        self.finished = False  # whether training sent that it has finished
        self.training_ended: float | None = None  # time.monotonic() when standard input ended
        self.silent_since: float | None = None  # time.monotonic() since which the server does not answer
        self.was_silent = False  # whether the server did not answer at any time
        self.done = threading.Event()

    def run(self) -> None:
        """Delivers all messages, or keeps the rest in the journal.

        Raises:
            TrackingError: The run could not begin, for another reason than a silent server, or the disk was full.
        """
        from tenacity import Retrying, retry_if_exception_type, wait_fixed

        asked, wake_up = os.pipe()
        os.set_blocking(wake_up, False)
        signal.set_wakeup_fd(wake_up)  # a signal handler would have to wait for a request that hangs
        threading.Thread(target=self._end_when_asked, args=[asked], daemon=True).start()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            for attempt in Retrying(
                retry=retry_if_exception_type(StoreUnreachable),
                stop=lambda _: self._has_waited_enough(),
                wait=wait_fixed(1),
                reraise=True,
            ):
                with attempt, self._telling_silence(), open_store(self.tracking) as client:
                    self._deliver(client)
        except TrackingError as error:
            if not self.journal.is_whole or not (self.delivery.has_begun or self.was_silent):
                self.journal.delete()
                raise
            self._keep(str(error))
            while self.messages.get() is not None:  # training goes on, and its messages still go into the journal
                pass
        else:
            self.journal.delete()
        self.done.set()

    def _read(self) -> None:
        for line in sys.stdin:
            if line.endswith("\n"):  # otherwise a kill cut it short
                self.journal.append(line)
                message = decode(line)
                self.finished = self.finished or (isinstance(message, End) and message.status == "FINISHED")
                self.messages.put(message)
        self.training_ended = time.monotonic()
        self.messages.put(None)
        # If training was stopped, this process does not wait for a request to a server that hangs.
        if not (self.finished or address(self.tracking).file or self.done.wait(SIGTERM_GRACE_SECONDS)):
            self._keep("training was stopped")
            os._exit(0)

    def _deliver(self, client: MlflowClient) -> None:
        mark_killed_runs(client)
        self.delivery.go_on(client)
        while True:
            if self.message is None:
                try:
                    self.message = self.messages.get(timeout=HEARTBEAT_SECONDS)
                except Empty:
                    self.delivery.beat(client)
                    continue
            if self.message is None:
                self.messages.put(None)  # the next attempt must find the end, too
                break
            with nullcontext() if self.delivery.has_begun else self.delivery.marked_if_it_fails(client):
                self.delivery.take(client, self.message)
            self.message = None
            self._answered()
        self.delivery.end(client, now_ms())

    @contextmanager
    def _telling_silence(self) -> Iterator[None]:
        try:
            yield
        except StoreUnreachable as error:
            self.was_silent = True
            if self.silent_since is None:
                self.silent_since = time.monotonic()
                self._say(
                    f"{error}; training goes on, and its run is kept in {self.journal.file}. "
                    f"MLflow is asked again until training ends, and {patience():.0f} s longer"
                )
            raise

    def _answered(self) -> None:
        if self.silent_since is not None:
            self.silent_since = None
            self._say("MLflow answers again")

    def _has_waited_enough(self) -> bool:
        """Returns whether a silent server was asked long enough: longer if training finished than if it was stopped."""
        if self.training_ended is None or self.silent_since is None:
            return False
        limit = patience() if self.finished else min(patience(), SIGTERM_GRACE_SECONDS)
        return time.monotonic() > max(self.training_ended, self.silent_since) + limit

    def _end_when_asked(self, asked: int) -> None:
        """Ends the process after SIGTERM, once training has ended, even while a request hangs.

        Args:
            asked: The pipe from which the numbers of received signals are read.
        """
        while os.read(asked, 1) != bytes([signal.SIGTERM]):
            pass
        while self.training_ended is None:
            time.sleep(0.1)
        if not self.done.wait(SIGTERM_GRACE_SECONDS):
            self._keep("asked to end")
            os._exit(0)

    def _keep(self, why: str) -> None:
        self._say(
            f"{why}. What MLflow does not have of the run is kept in {self.journal.file}; the next stage that uses "
            "MLflow delivers it, or `trackway relog`"
        )

    def _say(self, text: str) -> None:
        with suppress(OSError):  # nobody reads standard error any more
            print(f"train {self.experiment}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
