"""Runs stages on the nodes of a Ray cluster (the extra `trackway[ray]`); the flow stays in its folder.

Ray brings the flow's code to a node, once for each content; DVC's remote brings what a stage reads, and takes what it
made. Then the flow takes over the stage's entry of dvc.lock, and the outputs. So the nodes need no common disk.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from tenacity import retry, stop_after_attempt, wait_fixed

from flows.executors.demands import resources, why_waiting
from flows.executors.exchange import Exchange
from flows.executors.local import Local, of_flow
from flows.executors.node import run_on_node
from flows.executors.ray_address import check_answers
from flows.executors.remote_stage import RemoteStage
from flows.executors.running import ClusterLost, NodeLost, Running
from flows.executors.versions import versions
from flows.graph import Graph
from learn.errors import ServerError, TrackingError, TrackwayError
from tasks.kept import kept_seeds
from tasks.params import Params
from tasks.tracking.address import names_in
from tasks.tracking.lineage import git_context
from tasks.tracking.lost import end_what_is_lost
from tasks.tracking.names import store_in
from tasks.tracking.tags import FOLDER
from tasks.workspace.environment import MIRROR, NODE_FOLDER, PATIENCE
from tasks.workspace.files import DISK_ERRORS, cannot_write, write_atomically
from tasks.workspace.git import uncommitted
from tasks.workspace.origin import Origin

# What Ray must not take along, besides what .gitignore names: outputs, git, and what no stage needs.
NOT_SENT = ("/.git", "/.venv", "/.dvc/tmp", "/.dvc/cache", "/.dvc/config.local", "/.prefect", "/.servers", "/dvc.lock",
            "/data", "/models", "/metrics", "/plots", "/mlruns", "/tests", "/bench", "/docs")  # fmt: skip
# Beginnings of the names of variables for all stages.
PASSED_ON = ("AWS_", "MLFLOW_TRACKING_", "MLFLOW_S3_", PATIENCE, MIRROR)
LIBRARIES = {"s3": ("dvc_s3", "s3fs", "aiobotocore.session", "aiobotocore.httpsession")}  # of DVC's remotes, by scheme
SECONDS_TO_CONNECT, ATTEMPTS = 90, 2
POLL_SECONDS = 1.0


class RayCluster:
    """A connection to a Ray cluster, for the stages of one flow."""

    def __init__(self, place: str, params: Params, graph: Graph) -> None:
        """Connects, which takes some seconds.

        Args:
            place: The address, such as ray://HOST:10001.
            params: The content of params.yaml; its stores must be within reach of the nodes (stores.py).
            graph: DVC's graph.

        Raises:
            ServerError: Ray is not installed, or no cluster answers.
        """
        os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # else a call after `close` would start a cluster on this machine
        try:
            import ray
            from ray.util.queue import Queue
        except ImportError as error:
            raise ServerError(f"stages on a cluster need Ray: pip install 'trackway[ray]' ({error})") from error
        self._ray, self._params, self._graph, self._exchange = ray, params, graph, Exchange(graph)
        self.place = place
        self._libraries = list(LIBRARIES.get(str(graph.remote_address()).partition("://")[0], ()))
        self._origin = Origin(git_context(), uncommitted())
        self._stages: dict[str, RemoteStage] = {}
        self._log, self._warned = get_run_logger(), set[str]()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        warnings.filterwarnings("ignore", module="ray.util.client")  # its errors say the same
        environment = {"working_dir": str(Path.cwd()), "excludes": list(NOT_SENT)}
        head = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}

        connected: Future[Any] = Future()

        @retry(stop=stop_after_attempt(ATTEMPTS), wait=wait_fixed(2), reraise=True)  # the cluster may just be starting
        def attempt() -> Any:
            ray.init(place, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
            return Queue(actor_options=head)

        def connect() -> None:
            try:
                connected.set_result(attempt())
            except Exception as error:
                connected.set_exception(error)

        check_answers(place)
        try:
            threading.Thread(target=connect, daemon=True).start()  # Ray itself may wait for ever
            self._messages = connected.result(SECONDS_TO_CONNECT)
            self._run = ray.remote(max_retries=0)(run_on_node)
        except Exception as error:
            reason = " ".join(str(error).split())[:500] or f"it does not answer within {SECONDS_TO_CONNECT} s"
            raise ServerError(f"the Ray cluster at {place} cannot be used: {reason}") from error
        self.lost = threading.Event()
        threading.Thread(target=self._read_messages, daemon=True).start()

    def close(self) -> None:
        """Ends the connection, and with it whatever still runs for this flow."""
        self.lost.set()  # for stages that are just beginning
        logging.getLogger("ray").setLevel(logging.CRITICAL)  # it reports the end of its channels as an error
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
        self._exchange.send(needs)
        key, wanted = uuid.uuid4().hex, resources(self._params, stage)
        request = {
            "key": key,
            "environment": of_flow() | _variables(self._params),
            "origin": self._origin.as_dict(),
            "libraries": self._libraries,
            "versions": versions(),
            "stage": {
                "stage": stage,
                "force": force,
                "needs": needs,
                "lock": self._exchange.entries([stage, *needs]),
                "config": self._exchange.config(),
            },
        }
        remote = RemoteStage(self, stage, wanted, get_run_logger().info)
        self._stages[key] = remote
        try:
            try:
                remote.submit(self._run.options(name=stage, **wanted), request, self._messages)
            except Exception as error:
                raise self.explained(error, "the cluster") from error
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
            self._exchange.take_over(stage, made["entry"])

    def warn_of(self, node: str, differs: str) -> None:
        """Warns once that a node has other versions than the flow, as `what_differs` in versions.py says them."""
        text = (
            f"the node {node} has {differs}; what it makes may differ from what is made here. "
            "Install the flow's versions on it (docs/cluster.md)"
        )
        if text not in self._warned:
            self._warned.add(text)
            self._log.warning(text)

    def end_what_is_lost(self, stage: str, machine: str) -> None:
        """Ends in MLflow what a stage has begun on a machine that is gone, so that nothing stays RUNNING."""
        kind, _, name = stage.partition("@")
        store = store_in(self._params)
        if store and kind in ("train", "evaluate"):
            try:
                dataset, folder = self._params.experiments[name].dataset, self._origin.context[FOLDER]
                end_what_is_lost(store, dataset, name, folder, machine)
            except TrackingError as error:
                self._log.warning(error.as_message())

    def why_waiting(self, stage: str, options: dict[str, Any]) -> str:
        """Returns a line that says what a stage waits for."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return why_waiting(stage, options, nodes)

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
        cause = getattr(error, "cause", None) or error  # what was raised on the node
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            return ServerError(f"{cannot_write(node, cause)} ({NODE_FOLDER} says where a node writes)")
        reason = str(cause).strip().splitlines()
        return ServerError(f"{node} could not run it: {reason[-1] if reason else type(cause).__name__}")

    def is_lost(self) -> ClusterLost:
        """Returns the error that says so."""
        self.lost.set()
        return ClusterLost(
            f"the Ray cluster at {self.place} does not answer any more; the same command goes on from what is done "
            "once it is there again, and dvc repro does on this machine"
        )

    def _belongs_here(self, stage: str, force: bool) -> bool:
        """Returns whether a stage needs what only this folder has.

        These are downloads of a user's own files, registrations that complete what MLflow lacks, and stages whose
        outputs DVC's cache has.
        """
        kind, _, name = stage.partition("@")
        own_files = kind == "download" and hasattr(self._params.dataset(name).source, "path")
        return own_files or (kind == "register" if force else self._exchange.is_remembered(stage))

    def _needs(self, stage: str) -> dict[str, list[str]]:
        """Returns name of a stage → the paths of its outputs that this stage reads; also of itself, for kept seeds."""
        found = self._graph.reads(stage)
        kind, _, name = stage.partition("@")
        if kind == "register":  # a champion may have to be measured again, on today's samples
            found |= self._graph.outputs(f"transform@{name}")
        if kind == "train" and kept_seeds(name, self._params.experiments[name].seeds or ()):
            found |= self._graph.outputs(stage)  # they need not be trained again
        return found

    def _read_messages(self) -> None:
        """Hands the nodes' messages to their stages, until the connection ends."""
        from ray.util.queue import Empty

        while True:
            try:
                messages = [self._messages.get(timeout=POLL_SECONDS)]
                messages += self._messages.get_nowait_batch(self._messages.qsize())  # many stages may print much
            except Empty:
                continue
            except Exception:
                self.lost.set()
                for each in list(self._stages.values()):
                    each.hear("end", None)
                return
            for key, kind, content in messages:
                if stage := self._stages.get(key):
                    stage.hear(kind, content)


def _variables(params: Params) -> dict[str, str]:
    """Returns the environment variables for all stages: those that `tracking` names, and those of S3 and MLflow."""
    named = names_in(params.tracking or "")
    return {name: value for name, value in os.environ.items() if name in named or name.startswith(PASSED_ON)}
