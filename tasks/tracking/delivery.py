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
from typing import TYPE_CHECKING, Any

from tasks.tracking.address import address, project_folder
from tasks.tracking.journal import Journal
from tasks.tracking.lineage import git_context, lineage_of
from tasks.tracking.liveness import HEARTBEAT_SECONDS, is_latest, mark_killed_runs, now_ms, this_process
from tasks.tracking.messages import Begin, End, Epochs, Files, Message, RunHeader
from tasks.tracking.runs import experiment_id_of
from tasks.tracking.store import connect, is_silence, store_lock
from tasks.tracking.tags import DIFF, DIRTY, HEARTBEAT, KEY, NOTE, PROCESS, REBUILT, STATE_DICT
from tasks.workspace.files import sha256
from tasks.workspace.git import uncommitted
from tasks.workspace.paths import REPORT

if TYPE_CHECKING:
    from mlflow import MlflowClient


MAX_METRICS_PER_BATCH = 1000  # MLflow's limit for one request
UNCOMMITTED = f"Trained with uncommitted changes: its code is git's commit and the artifact `{DIFF}`."


def write_run(tracking: str, dataset: str, experiment: str, messages: Iterable[Message]) -> None:
    """Writes a whole run from the messages that TrainingRun would send."""
    with open_store(tracking) as client:
        mark_killed_runs(client)
        delivery = Delivery(tracking, run_header(tracking, dataset, experiment))
        with delivery.marked_if_it_fails(client):
            for message in messages:
                delivery.take(client, message)
            delivery.end(client, now_ms())


def run_header(tracking: str, dataset: str, experiment: str) -> RunHeader:
    """Returns what is known of a run before it begins."""
    here, project = Path.cwd(), project_folder()
    git = uncommitted()
    return RunHeader(
        key=uuid.uuid4().hex,
        store=address(tracking).shown,
        folder=here.relative_to(project).as_posix() if project.is_absolute() else "",
        dataset=dataset,
        experiment=experiment,
        started=now_ms(),
        process=this_process(),
        lineage=lineage_of(f"train@{experiment}", dataset),
        context=git_context() | ({DIRTY: json.dumps(bool(git))} if git is not None else {}),
        diff=address(tracking).redacted(git) if git else "",
    )


class Delivery:
    """Brings the messages of one run to MLflow. Idempotent: a message may come again after a failure or a kill."""

    def __init__(self, tracking: str, header: RunHeader) -> None:
        self.tracking, self.header = tracking, header
        self.run_id: str | None = None
        self.has_begun = False
        self.status, self.ended = "KILLED", 0  # until a message says otherwise
        self._beat_at = time.monotonic()

    def take(self, client: MlflowClient, message: Message) -> None:
        """Brings one message to MLflow. Idempotent."""
        if isinstance(message, Begin):
            self._begin(client, message)
        if not self.run_id:  # training failed before its first message
            return
        if isinstance(message, Epochs):
            self._log_epochs(client, self.run_id, message)
        elif isinstance(message, Files):
            self._log_files(client, self.run_id, message)
        elif isinstance(message, End):
            self.status, self.ended = message.status, message.time
        if time.monotonic() - self._beat_at > HEARTBEAT_SECONDS:
            self.beat(client)

    def beat(self, client: MlflowClient) -> None:
        """Sets the run's heartbeat, which tells other processes that the run is still being written."""
        if self.run_id:
            client.set_tag(self.run_id, HEARTBEAT, str(now_ms()))
        self._beat_at = time.monotonic()

    def go_on(self, client: MlflowClient) -> None:
        """Marks the run as RUNNING again; call after a silence, in which another process may have marked it KILLED."""
        if self.run_id:
            client.update_run(self.run_id, "RUNNING")
            self.beat(client)

    def end(self, client: MlflowClient, last: int) -> None:
        """Sets the run's final status.

        Args:
            client: A client of the store.
            last: When the last message came, in milliseconds since 1970; used if no message says when training ended.
        """
        if self.run_id:
            if self.status == "FINISHED" and not is_latest(client, client.get_run(self.run_id)):
                self.status = "KILLED"
            client.set_terminated(self.run_id, self.status, end_time=self.ended or last)

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

    def _begin(self, client: MlflowClient, message: Begin) -> None:
        from mlflow.entities import Param

        rebuilt = REBUILT in message.tags
        diff = "" if rebuilt else self.header.diff
        self.run_id = run_id = self._create_run(client, self._tags(message, rebuilt, bool(diff)))
        client.log_batch(run_id, params=[Param(key, _as_text(value)) for key, value in message.params.items()])
        self._log_dataset(client, run_id)
        client.log_text(run_id, message.summary, "summary.txt")
        if diff:
            client.log_text(run_id, diff, DIFF)
        report = self._file(self.header.lineage.path).parent / REPORT
        if report.is_file() and json.loads(report.read_bytes()):
            client.log_artifact(run_id, str(report), "data")
        self.has_begun = True

    def _tags(self, message: Begin, rebuilt: bool, has_diff: bool) -> dict[str, str]:
        lineage = self.header.lineage
        notes = [lineage.note, UNCOMMITTED if has_diff else ""]  # what MLflow's page shows as the description
        return {
            **({} if rebuilt else self.header.context),  # for a rebuilt run, user and commit would be the present ones
            "mlflow.source.name": "tasks/train.py",
            **({NOTE: "\n\n".join(filter(None, notes))} if any(notes) else {}),
            KEY: self.header.key,
            PROCESS: self.header.process,
            HEARTBEAT: str(now_ms()),
            **lineage.tags,
            **message.tags,
        }

    def _create_run(self, client: MlflowClient, tags: dict[str, str]) -> str:
        """Returns the id of the run, and creates the run unless an earlier attempt has."""
        header = self.header
        with store_lock(self.tracking):
            experiment_id = experiment_id_of(client, self.tracking, header.dataset)
            found = client.search_runs([experiment_id], f"tags.`{KEY}` = '{header.key}'", max_results=1)
            if found:
                return str(found[0].info.run_id)
            run = client.create_run(experiment_id, header.started, tags, header.experiment)
            return str(run.info.run_id)

    def _log_dataset(self, client: MlflowClient, run_id: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        lineage = self.header.lineage
        dataset = Dataset(lineage.dataset, lineage.digest, "dvc", lineage.path)
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
        try:
            client.log_inputs(run_id, datasets=inputs)
        except MlflowException:  # MLflow checks, then creates: another run of the dataset may have created it meanwhile
            client.log_inputs(run_id, datasets=inputs)

    def _log_epochs(self, client: MlflowClient, run_id: str, message: Epochs) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, epoch.time, epoch.number)
            for epoch in message.epochs
            for key, value in epoch.metrics.items()
        ]
        for start in range(0, len(metrics), MAX_METRICS_PER_BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS_PER_BATCH])

    def _log_files(self, client: MlflowClient, run_id: str, message: Files) -> None:
        state_dict = self._file(message.state_dict)
        if state_dict.is_file() and sha256(state_dict) == message.sha256:
            history = self._file(message.history)
            # With early stopping there are two files, of the best epoch and of the last.
            for file in sorted(state_dict.parent.glob("*.pt")):
                client.log_artifact(run_id, str(file), "state_dict")
            if history.is_file():
                client.log_artifact(run_id, str(history), "history")
        else:
            print(f"{message.state_dict} was replaced since it was trained: MLflow gets the run without it")
        if message.seconds is not None:
            client.log_metric(run_id, "train/seconds", message.seconds, timestamp=self.header.started)
        client.set_tag(run_id, STATE_DICT, message.sha256)

    def _file(self, path: str) -> Path:
        """Returns the path of a file of the run, which may be in a copy of the project that DVC has deleted since."""
        return project_folder() / self.header.folder / path


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


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def open_store(tracking: str) -> Iterator[MlflowClient]:
    """Yields a client of the store, after delivering what earlier processes kept on disk.

    Raises:
        TrackingError: The store cannot be used.
        StoreUnreachable: Its server does not answer.
    """
    with connect(tracking) as client:
        deliver_what_was_left(client, tracking)
        yield client


def prepare_store(uri: str) -> None:
    """Prepares the store for a server: creates it if it is missing, corrects moved paths, and marks killed runs."""
    with open_store(uri) as client:
        mark_killed_runs(client)
