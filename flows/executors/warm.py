"""The warm process, which imports the heavy libraries, runs nothing itself, and forks once for each stage.

    python -m flows.executors.warm SOCKET [LIBRARY ...]

LIBRARY names what it imports besides the libraries that stages need; `trackway up` names those of the `trackway`
command. The process ends when its standard input closes, which is a pipe from the flow or the supervisor that started
it (on a node of a cluster: once it has had no work for some minutes), or when a library is installed. tasks/warm.py is
the client.

It imports libraries, never this project's modules, so that a fork runs the code as it is at that time. Before a fork
there must be no computation, no thread and no CUDA, since OpenMP and CUDA hang or break after one
(pytorch.org/docs/stable/notes/multiprocessing.html); `check_forkable` ends the process otherwise.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import logging
import multiprocessing.util
import os
import runpy
import select
import signal
import socket
import sys
import threading
import time
import warnings
import weakref
from contextlib import suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ForkingMixIn, UnixStreamServer
from typing import Any, NoReturn

from tasks import warm

LIBRARIES = (
    "torch._dynamo", "torch.export", "torchvision.transforms.v2", "torchinfo",
    "sklearn.datasets", "sklearn.metrics", "sklearn.model_selection",
    "matplotlib.figure", "matplotlib.backends.backend_agg",
    "mlflow.pytorch", "mlflow.pyfunc.scoring_server", "mlflow.tracing.processor.base_mlflow", "mlflow.store.db.utils",
    "mlflow.store.tracking.sqlalchemy_workspace_store", "mlflow.store.model_registry.sqlalchemy_workspace_store",
    "mlflow.store.artifact.local_artifact_repo", "sqlalchemy.dialects.sqlite", "alembic.command", "alembic.config",
    "git", "dvc.cli.parser", "dvc.commands.repro", "dvc.repo.reproduce", "dvc.repo.experiments", "dvc.repo.plots",
    "dvc.repo.artifacts", "dvc.repo.datasets", "dvc.repo.stage", "dvc.stage.cache", "dvc.data_cloud", "dvc.cachemgr",
    "dvc.utils.strictyaml", "dvc_data.index", "dvc_data.hashfile.status", "dvc_data.hashfile.db.local",
    "dvc.repo.open_repo", "configobj", "platformdirs", "dulwich.ignore", "dulwich.index", "dulwich.worktree",
    "fsspec.implementations.memory", "networkx",
    "pydantic", "ruamel.yaml", "PIL.Image", "PIL.JpegImagePlugin", "filelock", "tenacity", "tqdm", "psutil", "requests",
)  # fmt: skip
# What torch.export and mlflow.pytorch import when they are first used. If another release lacks one, forks import it.
IMPORTED_LATE = (
    "torch.export._trace", "torch.export.pt2_archive", "torch._export.non_strict_utils",
    "torch._functorch.aot_autograd", "torch._inductor.ir", "torch._inductor.codecache",
    "torch._subclasses.schema_check_mode",
    "torch._export.passes.replace_autocast_with_hop_pass", "torch._export.passes.replace_set_grad_with_hop_pass",
    "torch._inductor.fx_passes.dedupe_symint_uses", "torch.fx.experimental.validator", "sympy.tensor.tensor",
    "torch.utils.serialization.config", "mlflow.models.display_utils", "mlflow.utils.search_logged_model_utils",
)  # fmt: skip
STARTS_CUDA = (
    "torch._inductor"  # modules below it may look at the GPUs when they are imported; with a GPU forks import them
)
THREADS = {"jemalloc_bg_thd"}  # harmless threads: pyarrow's, which waits for memory to return, and survives a fork
MAX_FORKS = 64  # largest number of forks at a time; further stages run cold
POLL_SECONDS = 0.5  # seconds between two looks at whether the process must end
UNTIL_IDLE = "--until-idle"  # the argument by which the process ends once it has had no work for IDLE_SECONDS
IDLE_SECONDS = 300.0


class Server(ForkingMixIn, UnixStreamServer):
    """Answers each request by a fork, the keeper, which forks once more; that second fork does the work.

    So the keeper can report how the work ended even if it crashes, and work that has begun outlives this process.
    """

    request_queue_size = 128
    timeout = POLL_SECONDS

    def __init__(self, place: Path, until_idle: bool) -> None:
        """Starts to listen, for this user only; clients wait until all libraries are imported.

        Args:
            place: The socket.
            until_idle: Whether to end after IDLE_SECONDS without work, instead of when standard input closes.
        """
        self.place, self.until_idle = place, until_idle
        place.parent.mkdir(mode=0o700, exist_ok=True)
        if (found := place.parent.stat()).st_uid != os.getuid() or found.st_mode & 0o077:
            sys.exit(f"error: stages run cold, for {place.parent} is open to others; it must be yours alone")
        partial = place.with_name(f".{place.name}.{os.getpid()}")
        super().__init__(str(partial), Keeper)
        partial.rename(place)
        self.inode = place.stat().st_ino
        self.libraries = warm.libraries()

    def serve(self) -> None:
        """Answers requests until standard input closes, there is no work any more, or a library is installed."""
        self.conditions = warm.conditions()
        self.worked = time.monotonic()
        while warm.libraries() == self.libraries and not self._is_over():
            self.handle_request()
            self.collect_children()
            if self.active_children:
                self.worked = time.monotonic()
        with suppress(FileNotFoundError):
            if self.place.stat().st_ino == self.inode:  # otherwise another process listens there by now
                self.place.unlink()

    def _is_over(self) -> bool:
        if self.until_idle:
            return time.monotonic() - self.worked > IDLE_SECONDS
        return bool(select.select([0], [], [], 0)[0])

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Returns whether another fork is allowed; otherwise the client does its work itself."""
        return len(self.active_children or ()) < MAX_FORKS


class Keeper(BaseRequestHandler):
    """Starts the work, passes signals on to it, and reports how it ended; kills the work if the client is killed."""

    server: Server

    def handle(self) -> None:
        """Handles one request, in a fork of the server."""
        client: socket.socket = self.request
        os.setsid()
        for number in warm.PASSED_ON:
            signal.signal(number, signal.SIG_DFL)
        self.server.socket.close()
        if not (read := _read(client)):
            return  # the client only checked whether this process listens
        request, streams = read
        other = [key for key, value in self.server.conditions.items() if request["conditions"].get(key) != value]
        print(
            request["module"], *request["arguments"], f"(cold: another {', '.join(other)})" if other else "", flush=True
        )
        if other:
            client.sendall(warm.REFUSED)
            return
        lifeline, ours = os.pipe()
        if (pid := os.fork()) == 0:
            client.close()
            os.close(ours)
            _work(request, streams, lifeline)
        client.sendall(warm.ACCEPTED)
        for stream in (lifeline, *streams):
            os.close(stream)
        threading.Thread(target=self._tell_the_end, args=[client, pid], daemon=True).start()
        try:
            while signals := client.recv(1):
                with suppress(ProcessLookupError):
                    os.killpg(pid, signals[0])
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @staticmethod
    def _tell_the_end(client: socket.socket, pid: int) -> None:
        _, status = os.waitpid(pid, 0)
        with suppress(OSError):
            client.sendall(status.to_bytes(warm.SENT))
            client.shutdown(socket.SHUT_RDWR)


def _read(client: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Returns a request and its three streams; None if the client closed the connection."""
    length, streams, _, _ = socket.recv_fds(client, warm.SENT, 3)
    if not length:
        return None
    text = client.recv(int.from_bytes(length), socket.MSG_WAITALL)
    return json.loads(text), streams


def _work(request: dict[str, Any], streams: list[int], lifeline: int) -> NoReturn:
    """Turns this fork into `python -m MODULE ARGUMENTS`, as if it had been started where the client was."""
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(request["folder"])
        os.umask(request["umask"])
        os.environ.clear()
        os.environ.update(request["environment"])
        by_line = os.isatty(1) or "PYTHONUNBUFFERED" in os.environ
        sys.stdout.reconfigure(line_buffering=by_line)  # type: ignore[union-attr]
        for number in request["ignored"]:
            signal.signal(number, signal.SIG_IGN)
        if signal.SIGINT not in request["ignored"]:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=_end_with_keeper, args=[lifeline], daemon=True).start()
        _as_if_new()
        sys.path[0] = request["folder"]
        sys.argv = [request["module"], *request["arguments"]]
        _run(request["module"])
    finally:
        os._exit(1)


def _end_with_keeper(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _as_if_new() -> None:
    """Gives a fork what a new process has: its own random numbers and its number of BLAS threads.

    It also drops the functions that libraries registered for the end of the process, as multiprocessing's forks do.
    """
    import numpy as np

    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    for at_the_end in (logging.shutdown, multiprocessing.util._exit_function):  # type: ignore[attr-defined]
        atexit.register(at_the_end)

    np.random.seed()
    for library, threads in BLAS:
        library.set_num_threads(threads)


def _run(module: str) -> NoReturn:
    """Runs a module, and ends the process as Python would."""
    code: object = None
    from tasks.workspace.processes import end_after_threads

    try:
        if module == "dvc":
            from tasks.atomic_dvc import mend

            mend()
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    end_after_threads(code)


BLAS: list[tuple[Any, int]] = []  # the libraries for linear algebra, and the number of threads for each


def preload(further: list[str]) -> None:
    """Imports the libraries, and forgets this project's modules; BLAS gets its threads only in each fork.

    Args:
        further: Libraries to import besides LIBRARIES.
    """
    before = dict(os.environ)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from tasks.tracking.store import MLFLOW_SETTINGS

    os.environ |= MLFLOW_SETTINGS | before | {"OPENBLAS_NUM_THREADS": "1"}
    gc.disable()  # imports create millions of objects and no garbage
    for name in (*LIBRARIES, *further):
        importlib.import_module(name)
    for name in IMPORTED_LATE:
        if name.startswith(STARTS_CUDA) and _has_cuda():
            continue
        with suppress(ImportError):
            importlib.import_module(name)
    sys.modules["dvc.cli.parser"].get_main_parser()  # DVC keeps it
    os.environ.clear()
    os.environ.update(before)
    from threadpoolctl import ThreadpoolController

    asked = (before.get(name, "") for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))
    threads = next((int(number) for number in asked if number.isdecimal()), len(warm.cores()))
    BLAS.extend(
        (library, threads) for library in ThreadpoolController().select(internal_api="openblas").lib_controllers
    )
    own = ("learn", "tasks", "flows", "web", "catalog")
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]
    gc.enable()
    gc.freeze()


def _has_cuda() -> bool:
    """Returns whether this machine has CUDA's driver, which is loaded and not initialized."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def check_forkable() -> None:
    """Exits if a library has started a thread, which a fork would lose, or CUDA, which a fork would break.

    CUDA's library may be loaded, but must not be initialized.
    """
    import torch

    tasks = Path("/proc/self/task")
    names = [(task / "comm").read_text().strip() for task in tasks.iterdir() if task.name != str(os.getpid())]
    if others := set(names) - THREADS:
        sys.exit(f"error: stages run cold, for a library has started threads: {', '.join(sorted(others))}")
    if torch.cuda.is_initialized():
        sys.exit("error: stages run cold, for a library has initialized CUDA")


def main() -> None:
    """Imports the libraries, and serves forks at the socket that the command line names."""
    os.umask(0o077)
    further = sys.argv[2:]
    server = Server(Path(sys.argv[1]), until_idle=UNTIL_IDLE in further)
    start = time.monotonic()
    preload([name for name in further if name != UNTIL_IDLE])
    check_forkable()
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    print(f"ready after {time.monotonic() - start:.1f} s", flush=True)
    server.serve()
    os._exit(0)  # at a normal end, nanobind prints pages about objects that libraries leak


if __name__ == "__main__":
    main()
