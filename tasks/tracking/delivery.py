"""Writes the messages of a training to its run in MLflow, now or later.

What MLflow does not have yet is on disk (journal.py). If training and writer are both killed, or the tracking server
does not answer for too long, the next process that opens the store delivers it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.tracking.address import address, project_folder
from tasks.tracking.journal import Journal
from tasks.tracking.lineage import git_context, lineage_of
from tasks.tracking.liveness import HEARTBEAT_SECONDS, mark_killed_runs, now_ms, this_process
from tasks.tracking.logged_run import LoggedRun
from tasks.tracking.messages import End, Message, RunHeader
from tasks.tracking.names import Store
from tasks.tracking.old_tags import rename_old_tags
from tasks.tracking.runs import stage_tag
from tasks.tracking.store import connect, is_silence
from tasks.tracking.tags import DIRTY
from tasks.workspace.git import uncommitted

if TYPE_CHECKING:
    from mlflow import MlflowClient


def write_run(store: Store, dataset: str, experiment: str, messages: Iterable[Message]) -> None:
    """Writes a whole run from the messages that TrainingRun would send."""
    with open_store(store.uri) as client:
        mark_killed_runs(client)
        delivery = Delivery(store.uri, run_header(store, dataset, experiment))
        with delivery.marked_if_it_fails(client):
            for message in messages:
                delivery.take(client, message)
            delivery.end(client, now_ms())


def run_header(store: Store, dataset: str, experiment: str) -> RunHeader:
    """Returns what is known of a run before it begins."""
    here, project = Path.cwd(), project_folder()
    git = uncommitted()
    return RunHeader(
        key=uuid.uuid4().hex,
        store=address(store.uri).shown,
        folder=here.relative_to(project).as_posix() if project.is_absolute() else "",
        dataset=dataset,
        experiment=experiment,
        started=now_ms(),
        process=this_process(),
        lineage=lineage_of(stage_tag(experiment), dataset),
        context=git_context() | ({DIRTY: json.dumps(bool(git))} if git is not None else {}),
        diff=address(store.uri).redacted(git) if git else "",
        project=store.project,
    )


class Delivery:
    """Brings the messages of one training to MLflow. Idempotent: a message may come again after a failure or a kill.

    Several seeds have a run each, below the run of the experiment.
    """

    def __init__(self, tracking: str, header: RunHeader) -> None:
        self._tracking, self._header = tracking, header
        self._runs: dict[int | None, LoggedRun] = {None: LoggedRun(tracking, header)}
        self._beat_at = time.monotonic()

    @property
    def _own(self) -> LoggedRun:
        return self._runs[None]

    @property
    def has_begun(self) -> bool:
        """Whether MLflow has the experiment's run."""
        return self._own.has_begun

    @property
    def run_id(self) -> str | None:
        """The id of the experiment's run; None before its first message."""
        return self._own.run_id

    @property
    def status(self) -> str:
        """How training ended, or KILLED as long as no message says so."""
        return self._own.status

    def take(self, client: MlflowClient, message: Message) -> None:
        """Brings one message to MLflow. Idempotent."""
        if message.seed not in self._runs:
            self._runs[message.seed] = LoggedRun(self._tracking, self._header, message.seed, self.run_id)
        run = self._runs[message.seed]
        run.take(client, message)
        if isinstance(message, End) and message.seed is not None:
            run.end(client, now_ms())
        if time.monotonic() - self._beat_at > HEARTBEAT_SECONDS:
            self.beat(client)

    def beat(self, client: MlflowClient) -> None:
        """Sets the heartbeat, which tells other processes that these runs are still being written."""
        for run in self._not_ended():
            run.beat(client)
        self._beat_at = time.monotonic()

    def go_on(self, client: MlflowClient) -> None:
        """Marks runs as RUNNING again; call after a silence, in which another process may have marked them KILLED."""
        for run in self._not_ended():
            run.go_on(client)
        self._beat_at = time.monotonic()

    def end(self, client: MlflowClient, last: int) -> None:
        """Sets the final status of all runs.

        Args:
            client: A client of the store.
            last: When the last message came, in milliseconds since 1970; used if no message says when training ended.
        """
        for run in self._not_ended():
            if run is not self._own and self.status == "FAILED":
                run.status = "FAILED"
            run.end(client, last)

    @contextmanager
    def marked_if_it_fails(self, client: MlflowClient) -> Iterator[None]:
        """Marks the run as FAILED, if the store still accepts that, when the block raises; not for a silent server."""
        try:
            yield
        except BaseException as error:
            if self.run_id and not is_silence(error):
                with suppress(Exception):
                    client.set_terminated(self.run_id, "FAILED")
            raise

    def _not_ended(self) -> list[LoggedRun]:
        """Returns the runs that have begun and not ended, those of seeds first."""
        return [run for run in reversed(self._runs.values()) if run.run_id and not run.has_ended]


def deliver_what_was_left(client: MlflowClient, tracking: str) -> None:
    """Delivers the runs that earlier processes kept on disk; prints those that MLflow refuses, and keeps them."""
    for journal in Journal.left():
        try:
            header, messages = journal.read()
            if header.store != address(tracking).shown:
                continue
            delivery = Delivery(tracking, header)
            for message in messages:
                delivery.take(client, message)
            delivery.end(client, journal.written_at)
        except Exception as error:  # the file may hold anything, and the other runs must be delivered nevertheless
            if is_silence(error):
                raise
            reason = address(tracking).redacted(" ".join(str(error).split()))[:300]
            print(
                f"the run in {journal.file} cannot be delivered to MLflow now: {reason}; it is tried again until the "
                "file is deleted"
            )
        else:
            if delivery.run_id:
                print(f"the run of {header.experiment} in {journal.file} is in MLflow now ({delivery.status})")
            journal.delete()


@contextmanager
def open_store(tracking: str) -> Iterator[MlflowClient]:
    """Yields a client of the store, after delivering what earlier processes kept on disk.

    The tags of a store that an earlier version of Trackway wrote get the names of today first.

    Raises:
        TrackingError: The store cannot be used.
        StoreUnreachable: Its server does not answer.
    """
    with connect(tracking) as client:
        rename_old_tags(client, tracking)
        deliver_what_was_left(client, tracking)
        yield client


def prepare_store(uri: str) -> None:
    """Prepares the store for a server: creates it if it is missing, corrects moved paths, and marks killed runs."""
    with open_store(uri) as client:
        mark_killed_runs(client)
