"""Runs a stage on a node of a Ray cluster; Ray calls `run_on_node` in one of its workers there.

A node needs Python and this package's environment. The flow's code comes from Ray, which unpacks it once for each
content; what a stage reads comes from DVC's remote. Below TRACKWAY_NODE_FOLDER (default: ~/.cache/trackway) the node
keeps DVC's cache and the work folders of stages.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from flows.executors.demands import shown
from flows.executors.versions import versions, what_differs
from flows.executors.warm import UNTIL_IDLE
from flows.executors.work_folder import keep_undelivered, take_undelivered, work_folder
from tasks.tracking.tags import FOLDER
from tasks.warm import READ_EARLY
from tasks.workspace.environment import LIFELINE, MIRROR, NODE_FOLDER, ORIGIN, OUTCOME, SHARED_GPU, WARM
from tasks.workspace.outcome import Outcome, told

OF_RAY = ("RAY_", "PYTHONPATH", "PYTHONBREAKPOINT", "OMP_NUM_THREADS")  # what Ray sets for its workers, not for stages
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
LAST_LINES = 40  # number of lines at the end of a stage's output in which such an error is looked for
SECONDS_BETWEEN = 0.1  # seconds in which lines are gathered before they are sent to the flow

# Starts a process that is no child of this one: Ray ends a worker that has been idle for a second, and its children.
APART = ("/bin/sh", "-c", '"$@" &', "sh")


class Messages(Protocol):
    """The queue of `ray.util.queue` by which nodes talk to the flow."""

    def put(self, item: tuple[str, str, Any]) -> None:
        """Sends a message: the stage's key, the kind of message, and its content."""


def run_on_node(request: dict[str, Any], messages: Messages) -> dict[str, Any]:
    """Runs one stage in a work folder of its own.

    Args:
        request: What `RayCluster` sends: the stage, what it reads, and the environment variables of the flow.
        messages: Where its lines go, as (key, kind, content): `began`, `lines`, and `end`, which comes last.

    Returns:
        `code`, the exit code of DVC; `outcome`, what the stage left for its flow, or None; `entry`, its entry of
        dvc.lock, or None; `undelivered`, name → text of the runs that MLflow did not take; `fetched` and `pushed`,
        the bytes moved.
    """
    folder = Path(os.environ.get(NODE_FOLDER) or Path.home() / ".cache/trackway").expanduser().absolute()
    resources = _resources()
    differs = what_differs(request["versions"], versions())
    began = {"node": socket.gethostname(), "resources": resources, "differs": differs}
    messages.put((request["key"], "began", began))
    with work_folder(folder, Path.cwd()) as work:
        keep_undelivered(folder, work, request["origin"]["context"][FOLDER])
        environment = _environment(request["environment"])
        say = partial(_say, request["key"], messages)
        of_node = _environment({})  # the warm process outlives the flow, and needs none of its keys
        environment[WARM] = _warm_socket(folder, work, of_node, request["libraries"], say)
        request["origin"] |= {"node": socket.gethostname(), "resources": resources}
        try:
            return _run(request, work, environment, messages)
        finally:
            messages.put((request["key"], "end", None))


def _run(request: dict[str, Any], work: Path, environment: dict[str, str], messages: Messages) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=work / ".dvc/tmp") as name:
        scratch = Path(name)
        (scratch / "origin.json").write_text(json.dumps(request["origin"]), encoding="utf-8")
        environment |= {OUTCOME: str(scratch / "outcome.json"), ORIGIN: str(scratch / "origin.json")}
        with subprocess.Popen(
            [sys.executable, "-m", "tasks.warm", "flows.executors.node_stage", name],
            cwd=work,
            stdin=subprocess.PIPE,  # the request, which may have credentials; it closes if this worker is killed
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            assert process.stdin
            with suppress(BrokenPipeError):  # it has ended, and its lines say why
                print(json.dumps(request["stage"]), file=process.stdin, flush=True)
            printed = _send_lines(process, request["key"], messages)
            code = process.wait()
            if code and any(os.strerror(error) in printed for error in DISK_FULL):
                _say(request["key"], messages, _about_disk(work))
        outcome: Outcome | None = told(scratch / "outcome.json")
        made = scratch / "made.json"
        return {
            "code": code,
            "outcome": outcome and vars(outcome),
            "undelivered": take_undelivered(work),
            **(json.loads(made.read_bytes()) if made.is_file() else {"entry": None, "fetched": 0, "pushed": 0}),
        }


def _say(key: str, messages: Messages, line: str) -> None:
    messages.put((key, "lines", [line]))


def _about_disk(work: Path) -> str:
    """Returns the line of a stage whose node has no room for it."""
    folder = work.parents[2]
    free = shutil.disk_usage(folder).free // 2**20
    return (
        f"error: the node {socket.gethostname()} had {free:,} MiB left for {folder} ({NODE_FOLDER}): make room there, "
        "or delete that folder while no stage runs on the node; the same command goes on from what is done"
    )


def _send_lines(process: subprocess.Popen[str], key: str, messages: Messages) -> str:
    """Sends a process's lines to the flow, those of a short time together, until it ends; returns the last ones."""
    assert process.stdout
    lines: list[str] = []
    last: deque[str] = deque(maxlen=LAST_LINES)
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(SECONDS_BETWEEN) or lines:
            if lines:
                batch = lines[:]
                del lines[: len(batch)]
                with suppress(Exception):  # the flow may be gone; then Ray ends this worker
                    messages.put((key, "lines", batch))

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for line in process.stdout:
            lines.append(line)
            last.append(line)
    finally:
        ended.set()
        sender.join()
    return "".join(last)


def _resources() -> str:
    """Returns what Ray has assigned to this task, such as `2 CPU, 0.5 GPU`."""
    import ray

    return shown(dict(sorted(ray.get_runtime_context().get_assigned_resources().items())))


def _environment(of_flow: dict[str, str]) -> dict[str, str]:
    """Returns a stage's environment variables: the node's own, then the flow's; only an assigned GPU is visible."""
    import ray

    own = {name: value for name, value in os.environ.items() if not name.startswith(OF_RAY)}
    assigned = ray.get_runtime_context().get_assigned_resources()
    gpus = assigned.get("GPU", 0)
    if MIRROR in own:  # what the flow has may be a folder that is only there
        of_flow = {name: value for name, value in of_flow.items() if name != MIRROR}
    return (
        own
        | {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "") if gpus else ""}
        | ({SHARED_GPU: "1"} if 0 < gpus < 1 else {})
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # dvc.yaml calls `python`
            "PYTHONUNBUFFERED": "1",
            LIFELINE: "stdin",
        }
        | of_flow
    )


def _warm_socket(
    folder: Path, work: Path, environment: dict[str, str], libraries: list[str], say: Callable[[str], None]
) -> str:
    """Returns the socket of this node's warm process for an environment; starts the process if there is none.

    All workers of the node share it. It ends once it has had no work for some minutes.

    Args:
        folder: The node's folder.
        work: The stage's work folder.
        environment: The process's environment.
        libraries: What the process imports besides the libraries that all stages need.
        say: Tells the user that one is started.
    """
    early = sorted((name, value) for name, value in environment.items() if name.startswith(READ_EARLY))
    code = [(work / file).read_text(encoding="utf-8") for file in ("flows/executors/warm.py", "tasks/warm.py")]
    digest = sha256(json.dumps([early, code, libraries, str(folder)]).encode()).hexdigest()[:16]
    place = Path(tempfile.gettempdir()) / f"trackway-{os.getuid()}" / f"node-{digest}.sock"
    place.parent.mkdir(mode=0o700, exist_ok=True)
    lock = place.with_suffix(".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # another worker has started it, and holds the lock as long as it lives
        lock.close()
        return str(place)
    say(f"{socket.gethostname()} loads PyTorch, MLflow and DVC once for its stages")
    place.unlink(missing_ok=True)  # a warm process that was killed may have left it
    with (folder / f"{place.stem}.log").open("w") as log:
        subprocess.run(
            [*APART, sys.executable, "-m", "flows.executors.warm", str(place), UNTIL_IDLE, *libraries],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock.fileno()],  # the lock is free again once that process has ended
            check=True,
        )
    lock.close()
    return str(place)
