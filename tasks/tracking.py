"""The one seam to MLflow: every training run's parameters, curves, state_dict, figures and model, and the champions.

Training itself does not wait for MLflow: `TrainingRun` hands each record to a process of its own
(`python -m tasks.tracking`), which imports MLflow while torch is imported and writes while the next epoch is trained.
Its standard input is also its lifeline: if it ends without a last word, training was killed, and the run is marked so.
It keeps what MLflow does not have yet on disk (tasks/journal.py). If both are killed, or the tracking server is silent
for too long, the next process that opens the store delivers that.

Later stages find a run by its stage and the sha256 of its state_dict; no run id travels in a file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import unquote

from learn.errors import StoreUnreachable, TrackingError
from learn.evaluation.metrics import METRICS
from tasks.address import address, project_folder
from tasks.git import uncommitted
from tasks.journal import Journal
from tasks.journal import folder as journals
from tasks.stage import REPORT, collect_garbage_rarely, end_at_once, training_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run
    from mlflow.entities.model_registry import ModelVersion
    from tenacity import RetryCallState

P = ParamSpec("P")
T = TypeVar("T")
STAGE = "dvc.stage"  # the tags by which a run is found: two experiments may have the same state_dict
STATE_DICT = "state_dict.sha256"
EXPERIMENT = "experiment"  # the tag of a registered version
TEST_DATA = "test_data.md5"
VALIDATION_DATA = "validation_data.md5"
NO_MODEL = "model.not_kept"  # the tag of a run whose model cannot be kept, with the reason
REBUILT = "trackway.rebuilt"  # the tag of a run that was not written while it was trained
PROCESS = "trackway.process"  # the tag that names the process which writes a run: machine, pid, when it was created
CHAMPION = "champion"
ARTIFACTS = "artifacts"  # the folder beside the database
BETWEEN_SENDS = 1.0  # seconds; a training of a thousand epochs a second does not wait for a thousand messages
CLOCK_SET = 60.0  # seconds; a clock that is set moves the time at which a process seems to have been created
MOST_RUNS = 1000  # looked at to find those that were killed; more than can run
POSTGRESQL = "postgresql"  # how its addresses begin, whatever the driver
POSTGRESQL_LOCK = int.from_bytes(b"trackway")  # the number of its advisory lock; only the same number excludes
EXISTS = "RESOURCE_ALREADY_EXISTS"
TRACKING = "TRACKWAY_TRACKING"  # the environment variable in which the writer gets the address: `ps` shows arguments
PATIENCE = "TRACKWAY_PATIENCE"  # the environment variable that says how many seconds a silent server is waited for
SLOW = 4.0  # seconds, after which it is said that MLflow is waited for
GRACE = 4.0  # seconds that the writer has after SIGTERM; a flow kills what does not end within 5
KEY = "trackway.key"  # the tag by which a run that is delivered again is found
HEARTBEAT = "trackway.heartbeat"  # the tag that says when the writer was last alive, in milliseconds since 1970
BETWEEN_BEATS = 30.0  # seconds
NO_BEAT = 300.0  # seconds without a heartbeat, after which a writer on another machine is taken for dead
NOTE = "mlflow.note.content"
MLFLOW_SETTINGS = {  # environment variables, which MLflow reads while it is imported or later
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would print the store's password
    # MLflow would ask a silent server again for minutes, and say nothing: here it is said at once, and waited for.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds; a server may take some to store a large file
}
DIRTY, DIFF = "git.dirty", "git.diff"  # a tag and an artifact
UNCOMMITTED = f"Trained with uncommitted changes: its code is git's commit and the artifact `{DIFF}`."
SILENCE = re.compile(r"\[Errno \d+\] [\w ]+|Connection (?:refused|broken)|[Tt]imed out|too many \d+ error responses")
REFUSAL = re.compile(
    r"authentication failed|no password supplied|does not exist|pg_hba"
)  # by PostgreSQL, which answers
FLOW_RUN = "TRACKWAY_FLOW_RUN"  # the environment variables in which a flow tells its stages its id and its page
FLOW_RUN_URL = "TRACKWAY_FLOW_RUN_URL"


def _now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optimizer": {"lr": 0.1}} → {"optimizer.lr": 0.1}; None stays out, a list stays whole."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif value is not None:
            flat[prefix + key] = value
    return flat


# ---- in the training process: MLflow is not imported here


class TrainingRun:
    """A run that is being trained. With uri None nothing is tracked, and nothing else changes."""

    def __init__(self, uri: str | None, dataset: str, experiment: str) -> None:
        self._writer: subprocess.Popen[str] | None = None
        self._epochs: list[dict[str, Any]] = []  # not sent yet
        self._sent_at = 0.0
        if uri:
            address(uri)  # a variable that is not set is told before any work
            command = [sys.executable, "-m", "tasks.tracking", dataset, experiment]
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
            self._send(end="FINISHED", time=_now())
        elif not issubclass(kind, KeyboardInterrupt | TrackingError):
            self._send(end="FAILED", time=_now())
        self._sender.shutdown()
        assert self._writer.stdin
        with suppress(BrokenPipeError):
            self._writer.stdin.close()
        if self._writer.wait() and kind is None:
            raise TrackingError(STORE_FAILED)

    def begin(self, params: dict[str, Any], tags: dict[str, str], summary: str) -> None:
        """params: flattened; tags: what else is known before the first epoch; summary: torchinfo's, as text."""
        self._send(params=params, tags=tags, summary=summary)

    def log_epoch(self, number: int, metrics: dict[str, float]) -> None:
        self._epochs.append({"number": number, "time": _now(), "metrics": metrics})
        if time.monotonic() - self._sent_at > BETWEEN_SENDS:
            self._send()

    def finish(self, state_dict: Path, history: Path, seconds: float) -> None:
        """The files that training wrote, and how long the epochs took."""
        self._send(**files_message(state_dict, history), seconds=seconds)

    def _send(self, **message: Any) -> None:
        message["epochs"], self._epochs = self._epochs, []
        self._sent_at = time.monotonic()
        if self._writer:
            while self._sent and self._sent[0].done():
                self._sent.popleft().result()
            self._sent.append(self._sender.submit(self._write, json.dumps(message) + "\n"))

    def _write(self, line: str) -> None:
        assert self._writer
        assert self._writer.stdin
        try:
            self._writer.stdin.write(line)
            self._writer.stdin.flush()
        except BrokenPipeError:
            raise TrackingError(STORE_FAILED) from None


def files_message(state_dict: Path, history: Path) -> dict[str, Any]:
    """What training wrote. Delivered late, the files may have been replaced: the sha256 tells."""
    return {"state_dict": str(state_dict), "sha256": sha256(state_dict), "history": str(history)}


STORE_HINT = "tracking: null in params.yaml trains without it"
STORE_FAILED = f"the run could not be written to MLflow; its message stands above ({STORE_HINT})"


# ---- in the writing process


def main() -> None:
    """Writes the run that the messages on standard input describe, one JSON object a line, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of training ends this process, nothing else
    signal.signal(signal.SIGTERM, lambda *_: None)  # Writer hears of it
    collect_garbage_rarely()
    dataset, experiment = sys.argv[1:]
    try:
        Writer(os.environ[TRACKING], dataset, experiment).run()
    except BaseException as error:
        if isinstance(error, TrackingError):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # an orderly end would wait for the thread that reads
    end_at_once()


class Writer:
    """Brings a training's messages to MLflow as they come, and keeps them on disk until MLflow has them.

    While the tracking server does not answer, it is asked again: as long as training goes on, and for PATIENCE after
    that. What it has not by then stays in the journal, which the next process that opens the store delivers.
    """

    def __init__(self, tracking: str, dataset: str, experiment: str) -> None:
        self.tracking, self.experiment = tracking, experiment
        header = _header(tracking, dataset, experiment)
        self.delivery = Delivery(tracking, header)
        try:
            self.journal = Journal.create(header)
        except OSError as error:
            shown = address(tracking).shown
            raise TrackingError(
                f"the MLflow store {shown} cannot be used: {error.strerror}: {journals()} ({STORE_HINT})"
            ) from error
        self.messages: SimpleQueue[dict[str, Any] | None] = SimpleQueue()  # None: no more
        self.message: dict[str, Any] | None = None  # the one that is being delivered
        self.finished = False  # whether training said that it did
        self.training_ended: float | None = None
        self.silent_since: float | None = None  # since when the server does not answer
        self.was_silent = False  # at any time
        self.done = threading.Event()

    def run(self) -> None:
        """Raises TrackingError if the run could not even begin, for another reason than a silent server."""
        from tenacity import Retrying, retry_if_exception_type, wait_fixed

        asked, wake_up = os.pipe()
        os.set_blocking(wake_up, False)
        signal.set_wakeup_fd(wake_up)  # a handler would have to wait for the request that hangs
        threading.Thread(target=self._end_when_asked, args=[asked], daemon=True).start()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            for attempt in Retrying(
                retry=retry_if_exception_type(StoreUnreachable),
                stop=lambda _: self._has_waited_enough(),
                wait=wait_fixed(1),
                reraise=True,
            ):
                with attempt, self._telling_silence(), _store(self.tracking) as client:
                    self._deliver(client)
        except TrackingError as error:
            if not self.journal.is_whole or not (self.delivery.has_begun or self.was_silent):
                self.journal.delete()
                raise
            self._keep(str(error))
            while self.messages.get() is not None:  # training goes on, and its messages go into the journal
                pass
        else:
            self.journal.delete()
        self.done.set()

    def _read(self) -> None:
        for line in sys.stdin:
            if line.endswith("\n"):  # or a kill cut it short
                self.journal.append(line)
                message = json.loads(line)
                self.finished = self.finished or message.get("end") == "FINISHED"
                self.messages.put(message)
        self.training_ended = time.monotonic()
        self.messages.put(None)
        # A training that was stopped is not waited for while a request to a server hangs.
        if not (self.finished or address(self.tracking).file or self.done.wait(GRACE)):
            self._keep("training was stopped")
            os._exit(0)

    def _deliver(self, client: MlflowClient) -> None:
        _mark_killed_runs(client)
        self.delivery.go_on(client)
        while True:
            if self.message is None:
                try:
                    self.message = self.messages.get(timeout=BETWEEN_BEATS)
                except Empty:
                    self.delivery.beat(client)
                    continue
            if self.message is None:
                self.messages.put(None)  # for the next attempt
                break
            with nullcontext() if self.delivery.has_begun else self.delivery.marked_if_it_fails(client):
                self.delivery.take(client, self.message)
            self.message = None
            self._answered()
        self.delivery.end(client, _now())

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
                    f"MLflow is asked again until training ends, and {_patience():.0f} s longer"
                )
            raise

    def _answered(self) -> None:
        if self.silent_since is not None:
            self.silent_since = None
            self._say("MLflow answers again")

    def _has_waited_enough(self) -> bool:
        """A training that finished is waited for longer than one that was stopped."""
        if self.training_ended is None or self.silent_since is None:
            return False
        patience = _patience() if self.finished else min(_patience(), GRACE)
        return time.monotonic() > max(self.training_ended, self.silent_since) + patience

    def _end_when_asked(self, asked: int) -> None:
        """By SIGTERM, once training has ended: also while a request hangs. asked: the pipe that tells of signals."""
        while os.read(asked, 1) != bytes([signal.SIGTERM]):
            pass
        while self.training_ended is None:
            time.sleep(0.1)
        if not self.done.wait(GRACE):
            self._keep("asked to end")
            os._exit(0)

    def _keep(self, why: str) -> None:
        self._say(
            f"{why}. What MLflow does not have of the run is kept in {self.journal.file}; the next stage that uses "
            "MLflow delivers it, or `trackway relog`"
        )

    def _say(self, text: str) -> None:
        with suppress(OSError):  # whoever listened is gone
            print(f"train {self.experiment}: {text}", file=sys.stderr, flush=True)


def write_run(tracking: str, dataset: str, experiment: str, messages: Iterable[dict[str, Any]]) -> None:
    """Writes a run as TrainingRun's messages tell it, here and now."""
    with _store(tracking) as client:
        _mark_killed_runs(client)
        delivery = Delivery(tracking, _header(tracking, dataset, experiment))
        with delivery.marked_if_it_fails(client):
            for message in messages:
                delivery.take(client, message)
            delivery.end(client, _now())


def _header(tracking: str, dataset: str, experiment: str) -> dict[str, Any]:
    """What is to be known of a run before it begins, as JSON: the first line of its journal."""
    here, project = Path.cwd(), project_folder()
    git = uncommitted()
    links = _links(f"train@{experiment}", dataset)
    return {
        "key": uuid.uuid4().hex,
        "store": address(tracking).shown,
        "folder": here.relative_to(project).as_posix() if project.is_absolute() else "",
        "dataset": dataset,
        "experiment": experiment,
        "started": _now(),
        "process": _this_process(),
        "links": vars(links),
        "context": _context() | ({DIRTY: json.dumps(bool(git))} if git is not None else {}),
        "diff": address(tracking).redacted(git) if git else "",
    }


def _context() -> dict[str, str]:
    """MLflow's own tags: the user and git's commit."""
    from mlflow.tracking.context.registry import resolve_tags

    return resolve_tags({})


class Delivery:
    """Brings the messages of one run to MLflow. Each may come again after a failure or a kill; then it adds nothing."""

    def __init__(self, tracking: str, header: dict[str, Any]) -> None:
        self.tracking, self.header = tracking, header
        self.run_id: str | None = None
        self.has_begun = False
        self.status, self.ended = "KILLED", 0  # until a message says otherwise
        self._beat_at = time.monotonic()

    def take(self, client: MlflowClient, message: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        if "params" in message:
            self._begin(client, message)
        if not self.run_id:  # training failed before it began
            return
        metrics = [
            Metric(key, value, epoch["time"], epoch["number"])
            for epoch in message["epochs"]
            for key, value in epoch["metrics"].items()
        ]
        for start in range(0, len(metrics), 1000):  # MLflow's limit
            client.log_batch(self.run_id, metrics=metrics[start : start + 1000])
        if "state_dict" in message:
            self._finish(client, message)
        self.status, self.ended = message.get("end", self.status), message.get("time", self.ended)
        if time.monotonic() - self._beat_at > BETWEEN_BEATS:
            self.beat(client)

    def beat(self, client: MlflowClient) -> None:
        """Says that the run is still being written."""
        if self.run_id:
            client.set_tag(self.run_id, HEARTBEAT, str(_now()))
        self._beat_at = time.monotonic()

    def go_on(self, client: MlflowClient) -> None:
        """After a silence, in which another process may have taken the run for killed."""
        if self.run_id:
            client.update_run(self.run_id, "RUNNING")
            self.beat(client)

    def end(self, client: MlflowClient, last: int) -> None:
        """last: when the last message came, in case none of them says when training ended."""
        if self.run_id:
            if self.status == "FINISHED" and not _is_latest(client, client.get_run(self.run_id)):
                self.status = "KILLED"
            client.set_terminated(self.run_id, self.status, end_time=self.ended or last)

    @contextmanager
    def marked_if_it_fails(self, client: MlflowClient) -> Iterator[None]:
        """Marks the run as FAILED, unless the server is only silent; if the store still takes that."""
        try:
            yield
        except BaseException as error:
            if self.run_id and not _is_silence(error):
                with suppress(Exception):
                    client.set_terminated(self.run_id, "FAILED")
            raise

    def _begin(self, client: MlflowClient, message: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param
        from mlflow.exceptions import MlflowException

        header, links = self.header, Links(**self.header["links"])
        rebuilt = REBUILT in message["tags"]
        diff = "" if rebuilt else header["diff"]
        notes = [links.note, UNCOMMITTED if diff else ""]  # what MLflow's page shows as the description
        tags = {
            **({} if rebuilt else header["context"]),  # it would name the user and the commit of now
            "mlflow.source.name": "tasks/train.py",
            **({NOTE: "\n\n".join(filter(None, notes))} if any(notes) else {}),
            KEY: header["key"],
            PROCESS: header["process"],
            HEARTBEAT: str(_now()),
            **links.tags,
            **message["tags"],
        }
        with _alone(self.tracking):
            experiment_id = _experiment_id(client, self.tracking, header["dataset"])
            found = client.search_runs([experiment_id], f"tags.`{KEY}` = '{header['key']}'", max_results=1)
            begun = {"start_time": header["started"], "run_name": header["experiment"], "tags": tags}
            run = found[0] if found else client.create_run(experiment_id, **begun)
        self.run_id = run.info.run_id
        client.log_batch(self.run_id, params=[Param(key, _as_text(value)) for key, value in message["params"].items()])
        dataset = Dataset(links.dataset, links.digest, "dvc", links.path)
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
        try:
            client.log_inputs(self.run_id, datasets=inputs)
        except MlflowException:  # MLflow looks, then creates: another run of the dataset may have come between
            client.log_inputs(self.run_id, datasets=inputs)
        client.log_text(self.run_id, message["summary"], "summary.txt")
        if diff:
            client.log_text(self.run_id, diff, DIFF)
        report = self._file(links.path).parent / REPORT
        if report.is_file() and json.loads(report.read_bytes()):
            client.log_artifact(self.run_id, str(report), "data")
        self.has_begun = True

    def _finish(self, client: MlflowClient, message: dict[str, Any]) -> None:
        assert self.run_id
        state_dict = self._file(message["state_dict"])
        if state_dict.is_file() and sha256(state_dict) == message["sha256"]:
            history = self._file(message["history"])
            # with early stopping the best epoch's, and the last one's
            for file in sorted(state_dict.parent.glob("*.pt")):
                client.log_artifact(self.run_id, str(file), "state_dict")
            if history.is_file():
                client.log_artifact(self.run_id, str(history), "history")
        else:
            print(f"{message['state_dict']} was replaced since it was trained: MLflow gets the run without it")
        if "seconds" in message:
            client.log_metric(self.run_id, "train/seconds", message["seconds"], timestamp=self.header["started"])
        client.set_tag(self.run_id, STATE_DICT, message["sha256"])

    def _file(self, path: str) -> Path:
        """Where a file of the run is: DVC may have run the stage in a copy of the project, which may be gone."""
        return project_folder() / self.header["folder"] / path


def _deliver_what_was_left(client: MlflowClient, tracking: str) -> None:
    """The runs that earlier processes kept on disk. One that MLflow does not take stays there, and is named."""
    for journal in Journal.left():
        try:
            header, messages = journal.read()
            if header["store"] != address(tracking).shown:
                continue
            delivery = Delivery(tracking, header)
            for message in messages:
                delivery.take(client, message)
            delivery.end(client, journal.written_at)
        except Exception as error:  # whatever is in it: no other run is to suffer
            if _is_silence(error):
                raise
            reason = address(tracking).redacted(" ".join(str(error).split()))[:300]
            print(
                f"the run in {journal.file} cannot be delivered to MLflow now: {reason}; it is tried again until the "
                "file is deleted"
            )
        else:
            if delivery.run_id:
                print(f"the run of {header['experiment']} in {journal.file} is in MLflow now ({delivery.status})")
            journal.delete()


def _this_process() -> str:
    import psutil

    return json.dumps([_machine(), os.getpid(), psutil.Process().create_time()])


def _machine() -> str:
    """Where a process's number means this very process: the host since it booted, and the container in it."""
    names = [socket.gethostname()]
    with suppress(OSError):  # not Linux
        names += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return " ".join(names)


def _is_dead(run: Run) -> bool:
    """Whether nothing writes a run any more. Here its process is looked for; elsewhere its heartbeat has stopped."""
    import psutil

    machine, pid, created = json.loads(run.data.tags[PROCESS])
    if machine != _machine():
        beat = int(run.data.tags.get(HEARTBEAT, run.info.start_time))
        return _now() - beat > NO_BEAT * 1000
    try:
        found = psutil.Process(pid)
        if found.status() == psutil.STATUS_ZOMBIE:
            return True
        return found.create_time() > created + CLOCK_SET  # another process has got its number
    except psutil.NoSuchProcess:
        return True


def _mark_killed_runs(client: MlflowClient) -> None:
    """Runs whose process was killed before it could say how they ended."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for run in client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=MOST_RUNS):
        # Asked again once the process is known to be dead: it may have ended its run between the two looks.
        if PROCESS in run.data.tags and _is_dead(run) and client.get_run(run.info.run_id).info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")


def _is_latest(client: MlflowClient, run: Run) -> bool:
    """Whether no later training with the same result has finished. Earlier ones that did and were not evaluated are
    marked KILLED: DVC recorded none of them, for it was killed or its disk was full, or it would not train again."""
    tags = run.data.tags
    for other in client.search_runs(
        [run.info.experiment_id],
        f"attributes.status = 'FINISHED' AND tags.`{STAGE}` = '{tags[STAGE]}' "
        f"AND tags.`{STATE_DICT}` = '{tags[STATE_DICT]}'",
    ):
        if other.info.start_time > run.info.start_time:
            return False
        if other.info.run_id != run.info.run_id and TEST_DATA not in other.data.tags:
            client.set_terminated(other.info.run_id, "KILLED", end_time=other.info.end_time)
    return True


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Links:
    """What ties a run to DVC, git and Prefect."""

    dataset: str
    path: str
    digest: str
    tags: dict[str, str]
    note: str  # Markdown


def _links(stage_name: str, dataset: str) -> Links:
    """DVC's md5 of the data and code that the stage reads, as they are now."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    path = training_folder(dataset).as_posix()
    tags = {STAGE: stage_name}
    if flow_run := os.environ.get(FLOW_RUN):
        tags["prefect.flow_run"] = flow_run
    url = os.environ.get(FLOW_RUN_URL)
    note = f"[Prefect flow run]({url})" if url else ""
    for variable, tag in {"DVC_EXP_NAME": "dvc.exp.name", "DVC_EXP_BASELINE_REV": "dvc.exp.baseline_rev"}.items():
        if value := os.environ.get(variable):
            tags[tag] = value
    hashes: dict[str, str] = {}
    try:
        with Repo() as repo:
            stage = repo.stage.load_one("dvc.yaml", name=stage_name)
            stage.save_deps()
            hashes = {d.def_path: d.hash_info.value for d in stage.deps if d.hash_info and d.hash_info.name == "md5"}
    except DvcException as error:  # run by hand, outside DVC's graph
        tags["dvc.error"] = str(error)
    digest = hashes.pop(path, "unversioned")
    tags["dvc.data.md5"] = digest
    tags["dvc.code.md5"] = json.dumps(hashes)
    return Links(dataset, path, digest, tags, note)


# ---- the store


def prepare_store(uri: str) -> None:
    """For whoever starts a server on the store: makes it where it is missing, and mends what moved or was killed."""
    with _store(uri) as client:
        _mark_killed_runs(client)


@contextmanager
def _store(tracking: str) -> Iterator[MlflowClient]:
    """A client of the store, which is made if it is missing. MLflow's failures come out as TrackingError."""
    store = address(tracking)
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    import logging

    logging.getLogger("alembic").setLevel("WARNING")
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow.store.db.utils").setLevel("CRITICAL")  # it would log what is raised, with its traceback
    mlflow.set_tracking_uri(store.uri)
    try:
        if store.file:
            _make_store(store.file)
            _move_store(tracking, store.file)
        # MLflow makes a database's tables when its client is made, without a lock.
        with _alone(tracking) if store.uri.startswith(POSTGRESQL) else nullcontext():
            client = mlflow.MlflowClient(store.uri)
        _deliver_what_was_left(client, tracking)
        yield client
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ModuleNotFoundError) as error:
        if not store.file and _is_silence(error):
            reason = SILENCE.search(str(error))
            text = store.redacted(reason[0] if reason else " ".join(str(error).split())[:300])
            raise StoreUnreachable(f"MLflow at {store.shown} does not answer: {text}") from error
        text = store.redacted(" ".join(str(error).partition("[SQL: ")[0].split()))
        raise TrackingError(f"the MLflow store {store.shown} cannot be used: {text[:500]} ({STORE_HINT})") from error


def _is_silence(error: BaseException | None) -> bool:
    """Whether a server could not be reached, or said that it cannot answer now: later it may."""
    import requests
    from requests.exceptions import ChunkedEncodingError, RetryError
    from sqlalchemy.exc import InterfaceError, OperationalError
    from urllib3.exceptions import ProtocolError

    # The last two: of an answer that broke off, as requests tells it, and as a download does.
    network = (requests.ConnectionError, requests.Timeout, RetryError, ChunkedEncodingError, ProtocolError)
    while error:
        if isinstance(error, network):
            return True
        if isinstance(error, OperationalError | InterfaceError):
            return not REFUSAL.search(str(error))
        error = error.__cause__ or error.__context__
    return False


def _patience() -> float:
    return float(os.environ.get(PATIENCE, 30))


@contextmanager
def _told_if_slow(uri: str | None) -> Iterator[None]:
    """Says what is waited for, if a server takes long; until it is said to be silent, up to 20 seconds may pass."""
    if not uri or address(uri).file:
        yield
        return
    timer = threading.Timer(SLOW, lambda: print(f"waiting for MLflow at {address(uri).shown}", flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _patiently(function: Callable[P, T]) -> Callable[P, T]:
    """Calls a function, which may be called again, until MLflow answers; says what it waits for, and for how long."""

    @wraps(function)
    def patient(*arguments: P.args, **named: P.kwargs) -> T:
        from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

        uri = arguments[0]

        def say(state: RetryCallState) -> None:
            if state.attempt_number == 1 and state.outcome:
                print(f"{state.outcome.exception()}; it is asked again for {_patience():.0f} s", flush=True)

        with _told_if_slow(uri if isinstance(uri, str) else None):
            return Retrying(
                retry=retry_if_exception_type(StoreUnreachable),
                stop=stop_after_delay(_patience()),
                wait=wait_fixed(1),
                before_sleep=say,
                reraise=True,
            )(function, *arguments, **named)

    return patient


def _make_store(file: Path) -> None:
    """MLflow's tables, whole or not at all: it makes them in dozens of steps, which two processes must not do at once,
    and which a kill would leave half done for ever."""
    if file.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file.parent.mkdir(parents=True, exist_ok=True)
    with _alone(f"sqlite:///{file}"):
        if not file.exists():
            partial = file.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            SqlAlchemyStore(f"sqlite:///{partial}", _artifacts(file)).engine.dispose()
            partial.replace(file)


def _artifacts(file: Path) -> str:
    """Where the artifacts are, beside the database; MLflow records only absolute locations."""
    return (file.parent.resolve() / ARTIFACTS).as_uri()


def _move_store(uri: str, file: Path) -> None:
    """Where the project's folder was moved, copied or renamed: its artifacts are those beside the database, not those
    in the folder that MLflow recorded."""
    with closing(sqlite3.connect(file, timeout=60)) as database:
        if not _elsewhere(database, file):
            return
        with _alone(uri), database:
            for recorded in _elsewhere(database, file):
                old = Path(unquote(recorded.removeprefix("file://"))).parent
                new = file.parent.resolve()
                _replace_prefix(database, f"{old.as_uri()}/", f"{new.as_uri()}/")
                _replace_prefix(database, f"{old}/", f"{new}/")


def _elsewhere(database: sqlite3.Connection, file: Path) -> set[str]:
    """The folders of artifacts that experiments name and that are not this store's."""
    locations = [location for (location,) in database.execute("SELECT artifact_location FROM experiments")]
    folders = {
        f"{before}/{ARTIFACTS}"
        for before, found, name in (location.rpartition(f"/{ARTIFACTS}/") for location in locations if location)
        if found and before.startswith("file:///") and "/" not in name
    }
    return folders - {_artifacts(file)}


def _replace_prefix(database: sqlite3.Connection, old: str, new: str) -> None:
    """In every column of text: MLflow has such locations in five tables, and another version may have more."""
    columns = database.execute(
        "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c "
        "WHERE t.type = 'table' AND (c.type LIKE '%CHAR%' OR c.type LIKE '%TEXT%')"
    ).fetchall()
    for table, column in columns:
        database.execute(
            f'UPDATE "{table}" SET "{column}" = ?1 || substr("{column}", length(?2) + 1) '
            f'WHERE substr("{column}", 1, length(?2)) = ?2',
            (new, old),
        )


@contextmanager
def _alone(tracking: str) -> Iterator[None]:
    """Holds the store's lock: MLflow checks, then creates, so two processes could both create.

    A kill releases it. SQLite: a file's lock. PostgreSQL: one of its advisory locks, for it may be reached from several
    machines. A tracking server has none; whoever creates something there expects that it may exist by then.
    """
    store = address(tracking)
    if store.file:
        from filelock import FileLock

        with FileLock(store.file.with_suffix(".lock")):
            yield
    elif store.uri.startswith(POSTGRESQL):
        import sqlalchemy

        os.environ.setdefault("PGCONNECT_TIMEOUT", "10")  # seconds; by default it waits for minutes
        engine = sqlalchemy.create_engine(store.uri, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({POSTGRESQL_LOCK})"))
            yield
    else:
        yield


def _experiment_id(client: MlflowClient, tracking: str, name: str) -> str:
    """The MLflow experiment of a dataset, made if it is missing."""
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        _restore(client, found)
        return found.experiment_id
    store = address(tracking)
    # A tracking server decides by itself where its artifacts are.
    location = None if store.page else f"{_artifacts(store.file or project_folder() / 'mlruns/mlflow.db')}/{name}"
    try:
        return client.create_experiment(name, artifact_location=location)
    except MlflowException as error:
        found = client.get_experiment_by_name(name) if error.error_code == EXISTS else None
        if not found:
            raise
        return found.experiment_id


def _restore(client: MlflowClient, experiment: Experiment) -> None:
    """Undoes that it was deleted on MLflow's page: until `mlflow gc` no other can have its name."""
    if experiment.lifecycle_stage == "deleted":
        print(f"MLflow's experiment {experiment.name} had been deleted; it is restored, with its runs")
        client.restore_experiment(experiment.experiment_id)


def _find_run(client: MlflowClient, dataset: str, name: str, digest: str) -> Run | None:
    """The latest run of an experiment of params.yaml with this state_dict (its sha256)."""
    experiment = client.get_experiment_by_name(dataset)
    if not experiment:
        return None
    runs = client.search_runs(
        [experiment.experiment_id],
        f"tags.`{STAGE}` = 'train@{name}' AND tags.`{STATE_DICT}` = '{digest}'",
        max_results=1,
        order_by=["start_time DESC"],
    )
    return runs[0] if runs else None


# ---- for the stages after training


@_patiently
def missing_parts(uri: str, dataset: str, state_dicts: dict[str, str]) -> dict[str, set[str]]:
    """Which of `train` and `evaluate` have not written their part of an experiment's run, for those that lack one.

    state_dicts: their sha256, for each experiment.
    """
    missing = {}
    with _store(uri) as client:
        if found := client.get_experiment_by_name(dataset):
            _restore(client, found)
        for experiment, digest in state_dicts.items():
            run = _find_run(client, dataset, experiment, digest)
            if run is None:
                missing[experiment] = {"train", "evaluate"}
            elif NO_MODEL not in run.data.tags and not _whole_model(client, run):
                missing[experiment] = {"evaluate"}
    return missing


def rename_run(uri: str, dataset: str, old: str, new: str, digest: str) -> None:
    """Gives the runs of an experiment's state_dict (its sha256) to the experiment's new name."""
    with _store(uri) as client:
        while run := _find_run(client, dataset, old, digest):
            client.update_run(run.info.run_id, name=new)
            client.set_tag(run.info.run_id, STAGE, f"train@{new}")


def rename_dataset(uri: str, old: str, new: str) -> None:
    """Gives the MLflow experiment and the registered model of a dataset its new name."""
    with _store(uri) as client:
        if experiment := client.get_experiment_by_name(old):
            client.rename_experiment(experiment.experiment_id, new)
        if _if_there(lambda: client.get_registered_model(old)):
            client.rename_registered_model(old, new)


@_patiently
def log_evaluation(
    uri: str | None,
    dataset: str,
    *,
    metrics: dict[str, float],
    tags: dict[str, str],
    report: dict[str, Any],
    texts: dict[str, str],
    figures: dict[str, Figure],
    model: Any,
    about: dict[str, Any],
    example: Any,
) -> None:
    """Adds what an evaluation found to the run of the experiment and state_dict that its report names. Idempotent.

    metrics: as `test/accuracy`. report: what goes into report.json. model: an nn.Module on the CPU, or None.
    about: what a prediction must know and the model's signature does not say: classes and loss.
    example: inputs (B, *shape) float32, a numpy array, B at least 2 so that the batch dimension stays dynamic.
    """
    if not uri:
        return
    with _store(uri) as client:
        run = _find_run(client, dataset, report["experiment"], report[STATE_DICT])
        if run is None:
            print(f"MLflow has no run of {report['experiment']}; the register stage or trackway relog rebuilds it")
            return
        run_id = run.info.run_id
        new = {key: value for key, value in metrics.items() if run.data.metrics.get(key) != value}
        for key, value in new.items():
            client.log_metric(run_id, key, value, step=int(run.data.params["epochs"]))
        data = {key: report[key] for key in (TEST_DATA, VALIDATION_DATA) if key in report}
        for key, value in {**data, **tags}.items():
            client.set_tag(run_id, key, value)
        client.log_dict(run_id, report, "report.json")
        for name, text in texts.items():
            client.log_text(run_id, text, name)
        for name, figure in figures.items():
            client.log_figure(run_id, figure, f"figures/{name}.png")
        if model is not None and not _whole_model(client, run):
            for model_id in _models_of(client, run):
                _delete_model(client, model_id)
            _log_model(run, model, about, example)


def _models_of(client: MlflowClient, run: Run) -> list[str]:
    """The ids of the models that were logged for a run, latest first, whole or not, linked to it or not yet."""
    of_run = f"source_run_id = '{run.info.run_id}'"
    return [model.model_id for model in client.search_logged_models([run.info.experiment_id], of_run)]


def _delete_model(client: MlflowClient, model_id: str) -> None:
    """Takes a logged model from MLflow's page; `mlflow gc` deletes its files."""
    _if_there(lambda: client.delete_logged_model(model_id))


def _whole_model(client: MlflowClient, run: Run) -> str | None:
    """The id of a run's model. MLflow links it to the run before its files are there; until then it does not count."""
    return next((model_id for model_id in _models_of(client, run) if not _why_broken(client, model_id)), None)


def _why_broken(client: MlflowClient, model_id: str) -> str | None:
    """Why a logged model cannot be loaded, as far as the store can tell; None if it is whole."""
    from mlflow.entities import LoggedModelStatus
    from mlflow.models import Model
    from mlflow.models.model import MLMODEL_FILE_NAME

    logged = _if_there(lambda: client.get_logged_model(model_id))
    if logged is None:
        return "it was deleted"
    if logged.status != LoggedModelStatus.READY:
        return f"MLflow calls it {logged.status}, for it was never logged as a whole"
    sizes = _sizes(client, model_id)
    if MLMODEL_FILE_NAME not in sizes:
        return f"its file {MLMODEL_FILE_NAME} is not in the artifact store"
    expected = Model.load(f"models:/{model_id}").model_size_bytes or 0  # the weights and the input example
    if (found := sum(sizes.values())) < expected:
        return f"of its {expected:,} bytes {found:,} are in the artifact store"
    return None


def _sizes(client: MlflowClient, model_id: str, folder: str | None = None) -> dict[str, int]:
    """The files of a logged model, each with its size in bytes."""
    sizes: dict[str, int] = {}
    for item in client.list_logged_model_artifacts(model_id, folder):
        sizes |= _sizes(client, model_id, item.path) if item.is_dir else {item.path: item.file_size or 0}
    return sizes


def _log_model(run: Run, model: Any, about: dict[str, Any], example: Any) -> None:
    """The model as a traced graph (pt2, no pickle) with signature, input example and the versions it needs."""
    import mlflow
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.inference_mode():
        output = model(torch.from_numpy(example)).numpy()
    inputs, outputs = (Schema([TensorSpec(np.dtype("float32"), (-1, *array.shape[1:]))]) for array in (example, output))
    mlflow.set_experiment(experiment_id=run.info.experiment_id)  # or the model goes to the experiment `Default`
    Model.log(
        artifact_path=None,
        name="model",
        flavor=mlflow.pytorch,
        run_id=run.info.run_id,
        tags={"mlflow.source.name": "tasks/evaluate.py"},  # and not the absolute path
        pytorch_model=model,
        signature=ModelSignature(inputs, outputs),
        input_example=example,
        metadata=about,
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
        serialization_format="pt2",
    )


@dataclass(frozen=True)
class Candidate:
    """A dataset's best experiment, as its evaluation describes it."""

    experiment: str
    part: str  # the one that decides: validation, or test if there is no validation part
    metric: str
    metrics: dict[str, float]  # all that were measured, as `validation/accuracy`
    state_dict: str  # sha256
    data: dict[str, str]  # the tags TEST_DATA and, if there is one, VALIDATION_DATA: md5

    @property
    def value(self) -> float:
        """What decides."""
        return self.metrics[f"{self.part}/{self.metric}"]

    @property
    def result(self) -> str:
        """For a message: what decides, and the test value."""
        names = dict.fromkeys((f"{self.part}/{self.metric}", f"test/{self.metric}"))
        return ", ".join(f"{name.replace('/', ' ')} {self.metrics[name]:.4f}" for name in names)

    @property
    def tags(self) -> dict[str, str]:
        """Of its version. They, and not the run, say what the kept state_dict measures: a run's curve may go on."""
        metrics = {key: repr(value) for key, value in self.metrics.items()}
        return {EXPERIMENT: self.experiment, STATE_DICT: self.state_dict, **self.data, **metrics}


@dataclass(frozen=True)
class Verdict:
    """What became of the alias `champion`."""

    text: str
    is_new: bool = False


@_patiently
def register_champion(uri: str | None, dataset: str, best: Candidate, experiments: Collection[str]) -> Verdict:
    """Gives the alias `champion` to the candidate where it beats the present one; returns what happened, as a sentence.

    It wins if there is no champion, if it is better by its metric on the part that decides, if the present one was
    measured on other data of that part, is of none of the experiments (all that the dataset has), or cannot be loaded.
    Stopped anywhere and called again, it ends in the same state.
    """
    if not uri:
        return Verdict("no champion: tracking is off")
    with _store(uri) as client, _alone(uri):
        run = _find_run(client, dataset, best.experiment, best.state_dict)
        if run is None or not (model_id := _whole_model(client, run)):
            kept = run is None or NO_MODEL not in run.data.tags
            why = "next: trackway relog" if kept else "evaluate says why it cannot be kept"
            return Verdict(f"no new champion: MLflow has no model of {best.experiment}; {why}")
        replaced = ""
        if current := _champion(client, dataset):
            if _why_version_broken(client, current):
                replaced = f"; version {current.version} was, and cannot be loaded"
            elif _is_of(current, run, experiments):
                _describe(client, current, best)
                return Verdict(f"{best.experiment} stays champion (version {current.version})")
            elif STATE_DICT not in current.tags:
                return Verdict(
                    f"version {current.version} stays champion: it was registered by hand and cannot be compared; "
                    f"to let {best.experiment} be it, take the alias away on MLflow's page, then trackway relog"
                )
            elif (was := current.tags.get(EXPERIMENT)) not in experiments:
                replaced = f"; {was} (version {current.version}) was, and is no experiment of {dataset} any more"
            value = _measured_on_the_same(current.tags, best)
            if not replaced and value is not None and not METRICS[best.metric].beats(best.value, value):
                return Verdict(
                    f"{current.tags[EXPERIMENT]} (version {current.version}, {best.part} {best.metric} {value:.4f}) "
                    f"stays champion; {best.experiment} has {best.value:.4f}"
                )
        version = _version_of(client, dataset, run, model_id, best, experiments)
        _describe(client, version, best)
        client.set_registered_model_alias(dataset, CHAMPION, version.version)
        return Verdict(
            f"{best.experiment} is champion (version {version.version}, {best.result}){replaced}", is_new=True
        )


def _describe(client: MlflowClient, version: ModelVersion, best: Candidate) -> None:
    """Brings a version's tags up to date: its experiment may have been renamed, or measured on other data since."""
    for key, value in best.tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, version.version, key, value)


def _measured_on_the_same(tags: dict[str, str], best: Candidate) -> float | None:
    """What a version's tags say of the candidate's metric, if it was measured on the same data; never NaN."""
    data = VALIDATION_DATA if best.part == "validation" else TEST_DATA
    if tags.get(data) != best.data[data]:
        return None
    value = float(tags.get(f"{best.part}/{best.metric}", math.nan))
    return None if math.isnan(value) else value


def _champion(client: MlflowClient, dataset: str) -> ModelVersion | None:
    """The version that has the alias `champion`, if there is one."""
    if not (registered := _if_there(lambda: client.get_registered_model(dataset))):
        return None
    if (version := registered.aliases.get(CHAMPION)) is None:
        return None
    return _if_there(lambda: client.get_model_version(dataset, str(version)))


def _if_there(ask: Callable[[], T]) -> T | None:
    """What is asked for; None only if the store answers that there is none. Any other failure is raised."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _is_of(version: ModelVersion, run: Run, experiments: Collection[str]) -> bool:
    """Whether a registered version is the model of a run, or of another run of its experiment with the same bytes.

    experiments: all that the dataset has. A version of any other is of one that has been renamed.
    """
    name, digest = version.tags.get(EXPERIMENT), version.tags.get(STATE_DICT)
    same_name = run.data.tags[STAGE] == f"train@{name}" or name not in experiments
    return version.run_id == run.info.run_id or (same_name and run.data.tags[STATE_DICT] == digest)


def _why_version_broken(client: MlflowClient, version: ModelVersion) -> str | None:
    """Why a registered version cannot be loaded, as far as the store can tell; None if it can."""
    from mlflow.models import Model

    if model_id := _source(version):
        return _why_broken(client, model_id)
    there = _if_there(lambda: Model.load(f"models:/{version.name}/{version.version}"))
    return None if there else "its files are not in the artifact store"


def _source(version: ModelVersion) -> str | None:
    """The id of the logged model that a version was made of; None if a user registered something else."""
    prefix, _, model_id = str(version.source).partition("models:/")
    return None if prefix or "/" in model_id or "@" in model_id else model_id


def _version_of(
    client: MlflowClient, dataset: str, run: Run, model_id: str, best: Candidate, experiments: Collection[str]
) -> ModelVersion:
    """The registered version of a run's model, made if there is none that can be loaded."""
    _create_registered_model(client, dataset)
    for version in client.search_model_versions(f"name = '{dataset}'"):
        if _is_of(version, run, experiments) and not _why_version_broken(client, version):
            return version
    return client.create_model_version(
        dataset,
        f"models:/{model_id}",
        run.info.run_id,
        model_id=model_id,
        tags=best.tags,
    )


def _registered(client: MlflowClient, name: str) -> ModelVersion:
    """The version that is meant by NAME@ALIAS or NAME/VERSION; TrackingError if there is none."""
    models = {model.name: model for model in client.search_registered_models(max_results=1000)}
    model, _, alias = name.rpartition("@")
    number = str(models[model].aliases.get(alias, "")) if model in models else ""
    if not number:
        model, _, number = name.rpartition("/")
    asked = model in models and number.isdecimal()
    if asked and (version := _if_there(lambda: client.get_model_version(model, number))):
        return version
    known = [f"{model.name}@{alias}" for model in models.values() for alias in model.aliases]
    there = ", ".join(known or ["none yet: `dvc repro` registers the best of each dataset"])
    raise TrackingError(f"{name} is no registered model; there is {there}")


def _loaded(version: ModelVersion) -> tuple[Any, Any, str | None]:
    """A version's model, what is stored with it, and if it cannot be loaded why not."""
    import mlflow.pytorch
    from mlflow.exceptions import MlflowException

    uri = f"models:/{version.name}/{version.version}"
    try:
        return mlflow.pytorch.load_model(uri), mlflow.models.get_model_info(uri), None
    except MlflowException:
        raise  # of the store
    except Exception as error:  # torch raises many kinds for a file that is not what it was
        return None, None, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@_patiently
def why_champion_broken(uri: str, dataset: str, *, load: bool = False) -> str | None:
    """Why the champion cannot be loaded, as far as the store can tell; None if it can, or if there is none.

    load: tries it. If that fails its model is marked FAILED, so that it is logged again.
    """
    with _store(uri) as client:
        version = _champion(client, dataset)
        if version is None:
            return None
        if not (why := _why_version_broken(client, version)) and load:
            why = _loaded(version)[2]
            if why and (model_id := _source(version)):
                client.finalize_logged_model(model_id, "FAILED")
        return why


def lacks_champion(uri: str, dataset: str, experiment: str, digest: str) -> bool:
    """Whether no champion can be loaded although the model of an experiment (its state_dict's sha256) was kept."""
    with _store(uri) as client:
        version = _champion(client, dataset)
        if version and not _why_version_broken(client, version):
            return False
        run = _find_run(client, dataset, experiment, digest)
        return run is not None and _whole_model(client, run) is not None


def _create_registered_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != EXISTS:
            raise


@dataclass(frozen=True)
class About:
    """What is stored with a model: the loss it was trained with, its classes, and the shape of one input."""

    loss: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]


def load_model(uri: str, name: str) -> tuple[Any, About]:
    """A registered model, NAME@ALIAS or NAME/VERSION, as a function of float32 tensors (B, *shape).

    Raises TrackingError if there is none, with those that there are, or if it cannot be loaded.
    """
    with _store(uri) as client:
        version = _registered(client, name)
        broken = _why_version_broken(client, version)
        if not broken:
            model, info, broken = _loaded(version)
        if broken:
            raise TrackingError(
                f"{name} is version {version.version} of {version.name}, which cannot be loaded: {broken}; "
                "next: trackway relog, which logs the champion again"
            )
    about = info.metadata or {}
    shape = info.signature.inputs.inputs[0].shape[1:] if info.signature else ()
    return model, About(about.get("loss", ""), tuple(about.get("classes", ())), tuple(shape))


@dataclass(frozen=True)
class Tracked:
    """What MLflow alone knows of an experiment's state_dict."""

    page: str  # of the run, below the MLflow server's address
    seconds: float | None  # of training; None for a run that was rebuilt
    champion: bool


def tracked(uri: str, state_dicts: dict[tuple[str, str], str]) -> dict[tuple[str, str], Tracked]:
    """(dataset, experiment) → what MLflow has of it, if it has. state_dicts: their sha256."""
    found = {}
    with _told_if_slow(uri), _store(uri) as client:
        champions = {dataset: _champion(client, dataset) for dataset in {dataset for dataset, _ in state_dicts}}
        for (dataset, experiment), digest in state_dicts.items():
            run = _find_run(client, dataset, experiment, digest)
            if run is None:
                continue
            version = champions[dataset]
            of_dataset = [name for other, name in state_dicts if other == dataset]
            champion = version is not None and _is_of(version, run, of_dataset)
            page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
            found[dataset, experiment] = Tracked(page, run.data.metrics.get("train/seconds"), champion)
    return found


if __name__ == "__main__":
    main()
