"""A stage that runs on a node of a Ray cluster, as its flow sees it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flows.executors.running import NodeLost
from tasks.workspace.outcome import Outcome

if TYPE_CHECKING:
    from flows.executors.ray_cluster import RayCluster

SECONDS_UNTIL_TOLD = 10.0  # seconds after which a stage says that it waits for room
SECONDS_FOR_LINES = 30.0  # seconds to wait for a stage's last lines once its result is there


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
    _machine: str = ""  # the name of the node's host
    _node: str = "node"  # the same for people, with what the stage has of it

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
            self._machine = content["node"]
            self._node = f"{content['node']} ({content['resources']})"
            self._began.set()
            self.say(f"{self.name} runs on {self._node}")
            if content["differs"]:
                self.cluster.warn_of(content["node"], content["differs"])
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
            error = self.cluster.explained(self._made, self._node)
            if isinstance(error, NodeLost) and self._machine:
                self.cluster.end_what_is_lost(self.name, self._machine)
            raise error from self._made
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
