"""Runs a stage in a fork of a warm process, which has imported PyTorch, MLflow and DVC (flows/executors/warm.py).

`python -m tasks.STAGE NAME` sends its folder, arguments, environment and streams to the warm process before it imports
anything, passes signals on to the fork, and ends as the fork ends. It does the work itself if no warm process listens,
or if that process has another user, Python, libraries or limits; the result is the same, a few seconds later.

    python -m tasks.warm dvc repro ...        # runs another module than a stage, here DVC, in the same way
"""

from __future__ import annotations

import json
import os
import resource
import signal
import site
import socket
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

from tasks.lifeline import end_with_starter
from tasks.workspace.environment import WARM

STAGES = ("group", "download", "split", "transform", "train", "evaluate", "register")
ACCEPTED, REFUSED = b"+", b"-"  # the answers to a request; after ACCEPTED the fork's exit status follows
SENT = 8  # bytes of a number in the protocol: the length of a request, the exit status of a fork
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# Beginnings of the environment variables that libraries read when they are imported.
READ_EARLY = ("OMP_", "MKL_", "KMP_", "OPENBLAS_", "BLIS_", "GOTO_", "NUMEXPR_", "TORCH", "PYTORCH", "CUDA", "NVIDIA_",
              "PYTHON", "LD_", "DYLD_", "MALLOC_", "MPL", "LC_", "LANG", "TZ", "HOME", "TMPDIR", "XDG_")  # fmt: skip
# Exceptions to READ_EARLY: a flow sets the first, and libraries set the others themselves when they are imported.
BUT_NOT = ("PYTHONUNBUFFERED", "KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK", "TORCHINDUCTOR_CACHE_DIR")


def begin(module: str) -> None:
    """Hands a stage, a run's writer or a sweep's worker to a fork; returns if this process must do the work itself.

    Call it before anything large is imported.

    Args:
        module: The module that runs, such as `tasks.train`.
    """
    _, _, name = module.partition(".")
    if name in STAGES:
        end_with_starter()  # here, not in the fork, whose parent is the warm process
    elif name not in ("tracking.writer", "sweep.worker"):
        return
    if sys.orig_argv[1:3] == ["-m", module]:  # otherwise Python was given options
        hand_over(module, sys.orig_argv[3:])


def hand_over(module: str, arguments: list[str]) -> None:
    """Runs `python -m MODULE ARGUMENTS` in a fork, and ends as it ends; returns if this process must do the work."""
    try:
        if (server := connect(place())) is None:
            return
        request = {
            "module": module,
            "arguments": arguments,
            "folder": str(Path.cwd()),
            "environment": dict(os.environ),
            "umask": _umask(),
            "ignored": [number for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN],
            "conditions": conditions(),
        }
        with server:
            try:
                answer = _ask(server, request)
            except OSError:  # the warm process has ended
                return
            if answer == ACCEPTED:
                _end_as(_wait(server))
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)


def place() -> str | None:
    """Returns the warm process's socket: the one that TRACKWAY_WARM names, or this folder's; None if it is `off`."""
    named = os.environ.get(WARM)
    return None if named == "off" else named or own_place()


def own_place() -> str:
    """Returns the path of this folder's socket.

    It is outside the folder: a socket cannot be copied with a folder, and its path may have only about 100 bytes.
    """
    folder = sha256(os.fsencode(Path.cwd())).hexdigest()[:16]
    return f"{os.environ.get('TMPDIR') or '/tmp'}/trackway-{os.getuid()}/{folder}.sock"


def connect(place: str | None) -> socket.socket | None:
    """Returns a connection to the process that listens at a socket; None if none does, or if it is another user's."""
    with suppress(OSError):
        if place and Path(place).stat().st_uid == os.getuid():
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(place)
                return server
            except OSError:
                server.close()
    return None


def conditions() -> dict[str, Any]:
    """Returns what must be equal in two processes for one to do the other's work with the same result."""
    early = {key: value for key, value in os.environ.items() if key.startswith(READ_EARLY) and key not in BUT_NOT}
    limits = [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]
    return {
        "python": [sys.version, sys.executable],
        "libraries": libraries(),
        "machine": _machine(),
        "account": [os.getuid(), os.getgid(), os.getgroups()],
        "limits": [list(limit) for limit in limits],
        "cores": cores(),
        "nice": os.nice(0),
        "environment": early,
        "protocol": sha256(Path(__file__).read_bytes()).hexdigest(),
    }


def cores() -> list[int]:
    """Returns the numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def libraries() -> int:
    """Returns a number that changes with each installation into this Python environment."""
    return Path(site.getsitepackages()[0]).stat().st_mtime_ns


def _machine() -> list[str]:
    """Returns the host and the namespaces in which a path means the same file."""
    names = [socket.gethostname()]
    with suppress(OSError):  # not Linux
        names += [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("mnt", "net", "pid")]
    return names


def _umask() -> int:
    value = os.umask(0o077)
    os.umask(value)
    return value


def _ask(server: socket.socket, request: dict[str, Any]) -> bytes:
    text = json.dumps(request).encode()
    socket.send_fds(server, [len(text).to_bytes(SENT)], [0, 1, 2])
    server.sendall(text)
    return server.recv(1)  # waits while the warm process still imports its libraries


def _wait(server: socket.socket) -> int:
    """Waits for the fork and returns its status as os.waitpid does; passes this process's signals on to the fork."""

    def pass_on(number: int, _: object = None) -> None:
        with suppress(OSError):
            server.send(bytes([number]))

    def stop(number: int, _: object) -> None:  # ^Z
        pass_on(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        pass_on(signal.SIGCONT)

    for number in (*PASSED_ON, signal.SIGTSTP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop if number == signal.SIGTSTP else pass_on)
    answer = server.recv(SENT, socket.MSG_WAITALL)
    if len(answer) < SENT:
        print("error: the process that did this stage's work was killed; run it again", file=sys.stderr)
        return signal.SIGKILL
    return int.from_bytes(answer)


def _end_as(status: int) -> NoReturn:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no second core dump beside the fork's
        with suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    hand_over(sys.argv[1], sys.argv[2:])
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
