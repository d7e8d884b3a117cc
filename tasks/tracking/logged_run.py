"""Writes one run to MLflow from its messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.tracking.address import project_folder
from tasks.tracking.liveness import is_latest, now_ms
from tasks.tracking.messages import Begin, End, Epochs, Files, Message, RunHeader
from tasks.tracking.names import Store
from tasks.tracking.runs import LONGEST_NAME, experiment_id_of, log_datasets, run_name, stage_tag
from tasks.tracking.store import store_lock
from tasks.tracking.tags import (
    DIFF,
    FIRST_NOTE,
    HEARTBEAT,
    KEY,
    NOTE,
    PARENT,
    PROCESS,
    REBUILT,
    SEED,
    SOURCE_NAME,
    STAGE,
    STATE_DICT,
    prefixed,
)
from tasks.workspace.files import sha256_of
from tasks.workspace.paths import REPORT, state_dict_files

if TYPE_CHECKING:
    from mlflow import MlflowClient


NO_SETTINGS = ("device", "parameters", "samples")  # parameters of a run that follow from others, or from the machine
MAX_METRICS_PER_BATCH = 1000  # MLflow's limit for one request
UNCOMMITTED = f"Trained with uncommitted changes: its code is git's commit and the artifact `{DIFF}`."


class LoggedRun:
    """One run in MLflow: of an experiment, or of one of its seeds.

    Args:
        tracking: Address of the store.
        header: What is known of the training.
        seed: The seed, if the experiment has several; None for the experiment's own run.
        parent: Id of the experiment's own run, for that of a seed.
    """

    def __init__(self, tracking: str, header: RunHeader, seed: int | None = None, parent: str | None = None) -> None:
        self.tracking, self.header, self.seed, self.parent = tracking, header, seed, parent
        self.run_id: str | None = None
        self.has_begun = self.has_ended = False
        self.status, self.ended = "KILLED", 0  # until a message says otherwise

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

    def beat(self, client: MlflowClient) -> None:
        """Sets the run's heartbeat."""
        client.set_tag(str(self.run_id), HEARTBEAT, str(now_ms()))

    def go_on(self, client: MlflowClient) -> None:
        """Marks the run as RUNNING again."""
        client.update_run(str(self.run_id), "RUNNING")
        self.beat(client)

    def end(self, client: MlflowClient, last: int) -> None:
        """Sets the run's final status; `last` is the time of its end if no message says when that was."""
        run_id = str(self.run_id)
        if self.status == "FINISHED" and not is_latest(client, client.get_run(run_id)):
            self.status = "KILLED"
        client.set_terminated(run_id, self.status, end_time=self.ended or last)
        self.has_ended = True

    def _begin(self, client: MlflowClient, message: Begin) -> None:
        from mlflow.entities import Param

        rebuilt = REBUILT in message.tags
        diff = "" if rebuilt else self.header.diff
        self.run_id = run_id = self._create_run(client, self._tags(message, rebuilt, bool(diff)), message)
        client.log_batch(run_id, params=[Param(key, _as_text(value)) for key, value in message.params.items()])
        lineage = self.header.lineage
        fraction, samples = message.params.get("fraction", 1.0), message.params.get("samples")
        name = lineage.dataset if fraction == 1 else f"{lineage.dataset} {100 * fraction:g} %"
        log_datasets(client, run_id, lineage.path, {"training": (name, lineage.digest)}, samples)
        client.log_text(run_id, message.summary, "summary.txt")
        if diff:
            client.log_text(run_id, diff, DIFF)
        report = self._file(self.header.lineage.path).parent / REPORT
        if report.is_file() and json.loads(report.read_bytes()):
            client.log_artifact(run_id, str(report), "data")
        self.has_begun = True

    def _tags(self, message: Begin, rebuilt: bool, has_diff: bool) -> dict[str, str]:
        lineage = self.header.lineage
        notes = [lineage.note, UNCOMMITTED if has_diff else ""]
        return {
            # For a rebuilt run, user and commit would be the present ones.
            **({} if rebuilt else prefixed(self.header.context)),
            SOURCE_NAME: "tasks/train.py",
            **(dict.fromkeys((NOTE, FIRST_NOTE), "\n\n".join(filter(None, notes))) if any(notes) else {}),
            KEY: self._key,
            PROCESS: self.header.process,
            HEARTBEAT: str(now_ms()),
            **prefixed(lineage.tags),  # a run that was left by an earlier version has other names
            **({} if self.seed is None else self._tags_of_seed(self.seed)),
            **prefixed(message.tags),
        }

    def _tags_of_seed(self, seed: int) -> dict[str, str]:
        return {STAGE: stage_tag(self.header.experiment, seed), SEED: str(seed), PARENT: str(self.parent)}

    @property
    def _key(self) -> str:
        return self.header.key if self.seed is None else f"{self.header.key}/{self.seed}"

    def _create_run(self, client: MlflowClient, tags: dict[str, str], message: Begin) -> str:
        """Returns the id of the run, and creates the run unless an earlier attempt has."""
        header = self.header
        with store_lock(self.tracking):
            dataset = Store(self.tracking, header.project).name(header.dataset)
            experiment_id = experiment_id_of(client, self.tracking, dataset)
            found = client.search_runs([experiment_id], f"tags.`{KEY}` = '{self._key}'", max_results=1)
            if found:
                return str(found[0].info.run_id)
            name = run_name(header.experiment, self.seed)
            if self.seed is None:
                name += self._what_differs(client, experiment_id, message.params)
            started = message.time or header.started
            run = client.create_run(experiment_id, started, tags, name[:LONGEST_NAME])
            return str(run.info.run_id)

    def _what_differs(self, client: MlflowClient, experiment_id: str, params: dict[str, Any]) -> str:
        """Returns the settings that differ from the experiment's run before, such as ` lr=0.05`, at most three."""
        own = f"tags.`{STAGE}` = '{stage_tag(self.header.experiment)}'"
        before = client.search_runs([experiment_id], own, max_results=1, order_by=["start_time DESC"])
        changed = [
            f" {key.rpartition('.')[2]}={_as_text(value)}"
            for key, value in params.items()
            if before and key not in NO_SETTINGS and before[0].data.params.get(key, "") != _as_text(value)
        ]
        return "".join(changed[:3]) + (" …" if len(changed) > 3 else "")

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
        models, history = self._file(message.models), self._file(message.history)
        state_dicts = state_dict_files(models)
        if all(file.is_file() for file in state_dicts) and sha256_of(state_dicts) == message.sha256:
            # With early stopping there are two files, of the best epoch and of the last; a seed's are in its own run.
            for file in sorted(models.glob("*.pt")):
                client.log_artifact(run_id, str(file), "state_dict")
            if history.is_file():
                client.log_artifact(run_id, str(history), "history")
        else:
            replaced = Path(message.models, state_dicts[0].relative_to(models))
            print(f"{replaced} was replaced since it was trained: MLflow gets the run without its state_dict")
        if message.seconds is not None:
            client.log_metric(run_id, "train/seconds", message.seconds, timestamp=self.header.started)
        client.set_tag(run_id, STATE_DICT, message.sha256)

    def _file(self, path: str) -> Path:
        """Returns the path of a file of the run, which may be in a copy of the project that DVC has deleted since."""
        return project_folder() / self.header.folder / path


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
