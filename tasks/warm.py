"""A stage in a fork of a process that has imported PyTorch, MLflow and DVC already (flows/executors/warm.py).

`python -m tasks.STAGE NAME` hands its folder, arguments, environment and streams over before it imports anything,
passes signals on, and ends as the fork ends. In any doubt it does the work itself: nobody listens, or another user,
another Python, other libraries, other limits. That gives the same bytes, a few seconds later.

    python -m tasks.warm dvc repro ...        # another module than a stage: DVC
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
ACCEPTED, REFUSED = b"+", b"-"  # what is answered to a request; after ACCEPTED comes how the fork ended
SENT = 8  # bytes of a number: the length of a request, and how a fork ended
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# What libraries read while they are imported.
READ_EARLY = ("OMP_", "MKL_", "KMP_", "OPENBLAS_", "BLIS_", "GOTO_", "NUMEXPR_", "TORCH", "PYTORCH", "CUDA", "NVIDIA_",
              "PYTHON", "LD_", "DYLD_", "MALLOC_", "MPL", "LC_", "LANG", "TZ", "HOME", "TMPDIR", "XDG_")  # fmt: skip
# A flow sets the first; libraries set the others when they are imported, as in the process that starts the warm one.
BUT_NOT = ("PYTHONUNBUFFERED", "KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK", "TORCHINDUCTOR_CACHE_DIR")


def begin(module: str) -> None:
    """Called before a stage or the writer of its run imports anything. Returns if it is to do its work itself."""
    _, _, name = module.partition(".")
    if name in STAGES:
        end_with_starter()  # the fork would not see it: its parent is another process
    elif name != "tracking.writer":
        return
    if sys.orig_argv[1:3] == ["-m", module]:  # or Python was given options
        hand_over(module, sys.orig_argv[3:])


def hand_over(module: str, arguments: list[str]) -> None:
    """Has `python -m MODULE ARGUMENTS` done by a fork, and ends as that ends. Returns if it is to be done here."""
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
            except OSError:  # it has ended
                return
            if answer == ACCEPTED:
                _end_as(_wait(server))
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)


def place() -> str | None:
    """The socket; None if there is to be none."""
    named = os.environ.get(WARM)
    return None if named == "off" else named or own_place()


def own_place() -> str:
    """The socket of this folder. It lies outside, for it could not be copied with it, and its path may have 100 bytes
    only."""
    folder = sha256(os.fsencode(Path.cwd())).hexdigest()[:16]
    return f"{os.environ.get('TMPDIR') or '/tmp'}/trackway-{os.getuid()}/{folder}.sock"


def connect(place: str | None) -> socket.socket | None:
    """A connection to the process that listens there, if it is this user's."""
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
    """What must be the same in two processes, or one is no replacement of the other."""
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
    """The numbers of those that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def libraries() -> int:
    """Changes with each installation into this environment."""
    return Path(site.getsitepackages()[0]).stat().st_mtime_ns


def _machine() -> list[str]:
    """Where a path means the same file."""
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
    return server.recv(1)  # while the libraries are still being imported, this waits


def _wait(server: socket.socket) -> int:
    """How the fork ended, as os.waitpid says it. Meanwhile it gets the signals that this process gets."""

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
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the fork has dumped its own
        with suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    hand_over(sys.argv[1], sys.argv[2:])
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
