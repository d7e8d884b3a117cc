"""Runs stages on the nodes of a Ray cluster (the extra `trackway[ray]`); the flow stays in its folder.

Ray brings the flow's code to a node, once for each content; DVC's remote brings what a stage reads, and takes what it
made. Then the flow takes over the stage's entry of dvc.lock, and the outputs. So the nodes need no common disk.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import get_run_logger

from flows.executors.local import Local, of_flow
from flows.executors.node import run_on_node
from flows.executors.running import ClusterLost, NodeLost, Running
from flows.graph import Graph
from learn.errors import ParamsError, ServerError, TrackwayError
from tasks.params import PARAMS_FILE, Params
from tasks.params.flow import bytes_of
from tasks.tracking.address import address, names_in
from tasks.tracking.lineage import git_context
from tasks.workspace.files import write_atomically
from tasks.workspace.git import uncommitted
from tasks.workspace.origin import Origin
from tasks.workspace.outcome import Outcome

# What Ray must not take along, besides what .gitignore names: outputs, git, and what no stage needs.
NOT_SENT = ("/.git", "/.venv", "/.dvc/tmp", "/.dvc/cache", "/.dvc/config.local", "/.prefect", "/.servers", "/dvc.lock",
            "/data", "/models", "/metrics", "/plots", "/mlruns", "/tests", "/bench", "/docs")  # fmt: skip
PASSED_ON = ("AWS_", "MLFLOW_TRACKING_", "MLFLOW_S3_")  # beginnings of the names of variables with credentials
SECONDS_UNTIL_TOLD = 10.0  # seconds after which a stage says that it waits for room
SECONDS_FOR_LINES = 2.0  # seconds to wait for a stage's last lines once its result is there
SECONDS_TO_CONNECT = 90
POLL_SECONDS = 1.0


class RayCluster:
    """A connection to a Ray cluster, for the stages of one flow."""

    def __init__(self, place: str, params: Params, graph: Graph) -> None:
        """Connects, which takes some seconds.

        Args:
            place: The address, such as ray://HOST:10001.
            params: The content of params.yaml.
            graph: DVC's graph.

        Raises:
            ParamsError: The nodes could not reach the stores.
            ServerError: Ray is not installed, or no cluster answers.
        """
        _check(params, graph)
        try:
            import ray
            from ray.util.queue import Queue
        except ImportError as error:
            raise ServerError(f"stages on a cluster need Ray: pip install 'trackway[ray]' ({error})") from error
        self._ray, self._params, self._graph = ray, params, graph
        self.place = place
        self._origin = Origin(git_context(), uncommitted())
        self._stages: dict[str, RemoteStage] = {}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        logging.getLogger("ray").setLevel(logging.WARNING)
        environment = {"working_dir": str(Path.cwd()), "excludes": list(NOT_SENT)}
        head = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}

        connected: Future[Any] = Future()

        def connect() -> None:
            try:
                ray.init(place, runtime_env=environment, log_to_driver=False, logging_level=logging.WARNING)
                connected.set_result(Queue(actor_options=head))
            except Exception as error:
                connected.set_exception(error)

        threading.Thread(target=connect, daemon=True).start()  # Ray itself may wait for ever
        try:
            self._messages = connected.result(SECONDS_TO_CONNECT)
            self._run = ray.remote(max_retries=0)(run_on_node)
        except Exception as error:
            reason = " ".join(str(error).split())[:500] or f"it does not answer within {SECONDS_TO_CONNECT} s"
            raise ServerError(f"the Ray cluster at {place} cannot be used: {reason}") from error
        self.lost = threading.Event()
        threading.Thread(target=self._read_messages, daemon=True).start()

    def close(self) -> None:
        """Ends the connection, and with it whatever still runs for this flow."""
        with suppress(Exception):
            self._ray.shutdown()

    @contextmanager
    def start(self, stage: str, force: bool) -> Iterator[Running]:
        """Starts a stage on a node with room for it; here if it needs what only this folder has."""
        if self._belongs_here(stage, force):
            with Local().start(stage, force) as running:
                yield running
            return
        if self.lost.is_set():
            raise self.is_lost()
        needs = self._needs(stage)
        self._graph.send(needs)
        key, wanted = uuid.uuid4().hex, resources(self._params, stage)
        request = {
            "key": key,
            "environment": of_flow() | _credentials(self._params),
            "origin": self._origin.as_dict(),
            "stage": {
                "stage": stage,
                "force": force,
                "needs": needs,
                "lock": self._graph.entries([stage, *needs]),
                "config": self._graph.remote_config(),
            },
        }
        remote = RemoteStage(self, stage, wanted, get_run_logger().info)
        self._stages[key] = remote
        try:
            remote.submit(self._run.options(name=stage, **wanted), request, self._messages)
            yield remote
        finally:
            del self._stages[key]

    def take_over(self, stage: str, made: dict[str, Any]) -> None:
        """Takes over what a stage has made: its outputs, its entry of dvc.lock, and its run if MLflow was away."""
        for name, text in made["undelivered"].items():
            file = Path("mlruns/undelivered") / Path(name).name
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, text.encode())
        if made["entry"]:
            self._graph.take_over(stage, made["entry"])

    def why_waiting(self, stage: str, wanted: dict[str, Any]) -> str:
        """Returns a line that says what a stage waits for."""
        asked = {"CPU": wanted["num_cpus"], "GPU": wanted["num_gpus"], "memory": wanted.get("memory", 0)}
        if kind := wanted.get("accelerator_type"):
            asked[f"accelerator_type:{kind}"] = 0.001
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        has_room = any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes)
        text = ", ".join(f"{amount:g} {name}" for name, amount in asked.items() if amount)
        if has_room:
            return f"{stage} waits for a node with room for it: {text}"
        return (
            f"{stage} waits, for no node of the cluster has {text}; it starts when such a node joins (flow.resources)"
        )

    def result(self, reference: Any) -> dict[str, Any]:
        """Waits for a stage's end, and returns what `run_on_node` returns."""
        found: dict[str, Any] = self._ray.get(reference)
        return found

    def cancel(self, reference: Any) -> None:
        """Has Ray end a stage's worker."""
        with suppress(Exception):  # the cluster is gone, and the stage with it
            self._ray.cancel(reference, force=True)

    def explained(self, error: Exception, node: str) -> TrackwayError:
        """Returns the error that tells a user why a stage has not ended as it should."""
        from ray import exceptions

        lost = (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.LocalRayletDiedError,
                exceptions.OwnerDiedError, exceptions.ObjectLostError, exceptions.RayActorError)  # fmt: skip
        if self.lost.is_set() or isinstance(error, ConnectionError):
            return self.is_lost()
        if isinstance(error, lost):
            return NodeLost(f"{node} is gone, or has ended the stage: {type(error).__name__}")
        reason = str(error).strip().splitlines()
        return ServerError(f"{node} could not run it: {reason[-1] if reason else type(error).__name__}")

    def is_lost(self) -> ClusterLost:
        """Returns the error that says so."""
        self.lost.set()
        return ClusterLost(
            f"the Ray cluster at {self.place} does not answer any more; the same command goes on from what is done"
        )

    def _belongs_here(self, stage: str, force: bool) -> bool:
        """Returns whether a stage needs what only this folder has.

        These are downloads of a user's own files, and registrations that rebuild the runs that MLflow lacks.
        """
        kind, _, name = stage.partition("@")
        return (kind == "download" and hasattr(self._params.dataset(name).source, "path")) or (
            kind == "register" and force
        )

    def _needs(self, stage: str) -> dict[str, list[str]]:
        """Returns name of a stage → the paths of its outputs that this stage reads."""
        found = self._graph.reads(stage)
        kind, _, name = stage.partition("@")
        if kind == "register":  # a champion may have to be measured again, on today's samples
            found |= self._graph.outputs(f"transform@{name}")
        return found

    def _read_messages(self) -> None:
        """Hands the nodes' messages to their stages, until the connection ends."""
        from ray.util.queue import Empty

        while True:
            try:
                key, kind, content = self._messages.get(timeout=POLL_SECONDS)
            except Empty:
                continue
            except Exception:
                self.lost.set()
                for stage in list(self._stages.values()):
                    stage.hear("end", None)
                return
            if key in self._stages:
                self._stages[key].hear(kind, content)


@dataclass(eq=False)
class RemoteStage:
    """A stage that runs on a node."""

    cluster: RayCluster
    name: str
    wanted: dict[str, Any]  # Ray's options
    say: Callable[[str], None]  # writes a line to the task's log
    _lines: queue.Queue[str | None] = field(default_factory=queue.Queue)
    _began: threading.Event = field(default_factory=threading.Event)
    _printed_all: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)  # set by the flow
    _reference: Any = None
    _made: dict[str, Any] | Exception | None = None
    _node: str = "node"

    def submit(self, task: Any, request: dict[str, Any], messages: Any) -> None:
        """Gives the stage to Ray."""
        self._reference = task.remote(request, messages)
        threading.Thread(target=self._follow, daemon=True).start()

    @property
    def waits(self) -> bool:
        """Whether it still waits for a node with room."""
        return not self._began.is_set()

    def hear(self, kind: str, content: Any) -> None:
        """Takes a message from the node."""
        if kind == "began":
            self._node = f"{content['node']} ({content['resources']})"
            self._began.set()
            self._lines.put(f"{self.name} runs on {self._node}")
        for line in content if kind == "lines" else []:
            self._lines.put(line)
        if kind == "end":
            self._printed_all.set()

    def lines(self) -> Iterator[str]:
        """Yields what the stage prints."""
        while (line := self._lines.get()) is not None:
            yield line

    def wait(self) -> tuple[int, Outcome | None]:
        """Takes over what the stage has made, and returns its exit code and outcome."""
        if isinstance(self._made, Exception):
            if self._ended.is_set():
                return -1, None
            raise self.cluster.explained(self._made, self._node) from self._made
        assert self._made
        self.cluster.take_over(self.name, self._made)
        moved = [f"{what} {self._made[what]:,} bytes" for what in ("fetched", "pushed") if self._made[what]]
        if moved:
            self.say(f"{self.name}: {self._node} {' and '.join(moved)}")
        told = self._made["outcome"]
        return self._made["code"], Outcome(**told) if told else None

    def end(self) -> None:
        """Ends the stage: Ray kills its worker, and the stage sees that (tasks/lifeline.py)."""
        self._ended.set()
        self.cluster.cancel(self._reference)

    def _follow(self) -> None:
        """Waits for the stage's end, and then ends `lines`."""
        try:
            if not self._began.wait(SECONDS_UNTIL_TOLD) and not self._ended.is_set():
                self._lines.put(self.cluster.why_waiting(self.name, self.wanted))
            self._made = self.cluster.result(self._reference)
            self._printed_all.wait(SECONDS_FOR_LINES)
        except Exception as error:
            self._made = error
        self._lines.put(None)


def resources(params: Params, stage: str) -> dict[str, Any]:
    """Returns Ray's options for a stage, from `flow.resources`: of its kind, then of its name, then of itself."""
    kind, _, name = stage.partition("@")
    said: dict[str, Any] = {"cpus": params.threads}
    for key in (kind, name, stage):
        if entry := params.flow.resources.get(key):
            said |= entry.model_dump(exclude_unset=True)
    options: dict[str, Any] = {"num_cpus": said["cpus"], "num_gpus": said.get("gpus", 0)}
    if memory := said.get("memory"):
        options["memory"] = bytes_of(memory)
    if accelerator := said.get("accelerator"):
        options["accelerator_type"] = accelerator
    return options


def _check(params: Params, graph: Graph) -> None:
    """Raises ParamsError unless nodes without a common disk can reach the data and the runs."""
    problems = []
    if params.tracking and (store := address(params.tracking)).file:
        problems.append(
            f"tracking is {store.shown}, a file on this disk; on a cluster it must be a server, such as "
            f"http://HOST:5000, or null ({PARAMS_FILE})"
        )
    if not graph.repo.config["core"].get("remote"):
        problems.append(
            "there is no DVC remote by which the nodes get data; add one: dvc remote add --default NAME ADDRESS "
            "(docs/storing.md)"
        )
    if problems:
        raise ParamsError(problems)


def _credentials(params: Params) -> dict[str, str]:
    """Returns the environment variables with credentials: those that `tracking` names, and those of S3 and MLflow."""
    named = names_in(params.tracking or "")
    return {name: value for name, value in os.environ.items() if name in named or name.startswith(PASSED_ON)}
