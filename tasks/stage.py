"""What the six stages share: their command line, their folders, and writing so that a kill leaves nothing half done."""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import hashlib
import math
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import learn
from learn.errors import TrackwayError
from learn.params import PARAMS_FILE, Params, load_params

if TYPE_CHECKING:
    import torch
    from filelock import FileLock

# Written once the parameters have passed `learn.checks`, which needs torch: the next stage need not import it again.
CHECKED = Path(".dvc/tmp/params-checked")
REPORT = "report.json"  # in data/transformed/D/: what the checks of photos found
LIFELINE = "TRACKWAY_LIFELINE"  # the environment variable by which a flow asks its stages to end with it
MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)  # a full or read-only disk


def run_stage(stage: Callable[[Params, str], None], what: str) -> None:
    """The command line of a stage, `python -m tasks.STAGE NAME`. A user's mistake ends in its message, exit code 1."""
    parser = argparse.ArgumentParser(prog=f"python -m tasks.{stage.__name__}", description=stage.__doc__)
    parser.add_argument("name", help=f"one of the {what} in {PARAMS_FILE}")
    name = parser.parse_args().name
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    collect_garbage_rarely()
    _end_with_flow()
    try:
        stage(checked_params(), name)
    except TrackwayError as error:
        print(error.as_message(), file=sys.stderr)
        sys.exit(error.exit_code)
    except FileNotFoundError as error:
        if not str(error.filename).startswith(("data/", "models/", "metrics/", "plots/")):
            raise
        sys.exit(f"error: {error.filename} is not there; `dvc repro {stage.__name__}@{name}` makes what comes before")
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        file = f" {error.filename}" if error.filename else ""
        sys.exit(
            f"error: {stage.__name__} {name} cannot write{file}: {error.strerror}; "
            "nothing is half written: make room or give the right to write, and run it again"
        )
    except KeyboardInterrupt:
        sys.exit(130)
    end_at_once()


def _end_with_flow() -> None:
    """Where a flow runs the stage, standard input is a pipe from it that ends with it, even where it is killed."""

    def wait() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    if os.environ.get(LIFELINE):
        threading.Thread(target=wait, daemon=True).start()


def collect_garbage_rarely() -> None:
    """Imports of large libraries make millions of objects and no garbage; looking for it is a quarter of their time."""
    gc.set_threshold(100_000, 20, 100)


def end_at_once() -> NoReturn:
    """Ends a process whose work is done. Python would first take apart all that torch and MLflow made: 0.7 seconds."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def checked_params(path: Path = PARAMS_FILE) -> Params:
    """The parameters, after every check that needs no work; the slow ones run once a change. Raises ParamsError."""
    files = [path, *sorted(Path(learn.__file__).parent.rglob("*.py"))]
    digest = hashlib.sha256(version("torch").encode())
    for file in files:
        digest.update(file.read_bytes() if file.is_file() else b"")
    if CHECKED.is_file() and CHECKED.read_text() == digest.hexdigest():
        return load_params(path)
    from learn.checks import check

    params = check(path)
    if CHECKED.parent.is_dir():
        write_atomically(CHECKED, digest.hexdigest().encode())
    return params


def raw_folder(dataset: str) -> Path:
    return Path("data/raw") / dataset


def split_folder(dataset: str) -> Path:
    return Path("data/split") / dataset


def transformed_folder(dataset: str) -> Path:
    return Path("data/transformed") / dataset


def state_dict_file(experiment: str) -> Path:
    return Path("models") / experiment / "model.pt"


def last_state_dict_file(experiment: str) -> Path:
    """Beside the best epoch's, where early stopping keeps that one."""
    return Path("models") / experiment / "last.pt"


def history_file(experiment: str) -> Path:
    return Path("plots/history") / f"{experiment}.csv"


def metrics_file(dataset: str, experiment: str) -> Path:
    return Path("metrics") / dataset / f"{experiment}.json"


def report_file(dataset: str, experiment: str) -> Path:
    return Path("metrics") / dataset / f"{experiment}.report.json"


def predictions_file(experiment: str) -> Path:
    return Path("plots/predictions") / f"{experiment}.csv"


def comparison_file(dataset: str) -> Path:
    return Path("metrics") / f"{dataset}.csv"


def is_streamed(memory: str, size: int, device: torch.device) -> bool:
    """Whether inputs of so many bytes are read from their file batch by batch; with memory auto where they would take
    more than half of what the device has free."""
    if memory != "auto":
        return memory == "streamed"
    import psutil
    import torch

    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return size > min(free, _allowed()) / 2


def _allowed() -> float:
    """Bytes that this process may have, where a container or `ulimit` sets a limit."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text().strip()).isdecimal():
        limits.append(int(text))
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=math.inf)


@contextmanager
def one_at_a_time(lock: FileLock, say_waiting: Callable[[], object]) -> Iterator[None]:
    """Holds the lock, and says so where it has to wait. The lock is the operating system's, so a kill releases it."""
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
    except Timeout:
        say_waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into; it takes the place of the old one when all is written."""
    partial = folder.with_name(f".{folder.name}.partial")  # beside it, for `models` may be a disk of its own
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def write_atomically(file: Path, content: bytes) -> None:
    """The whole file or none of it, whenever the power goes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # outside the folder, which may be an output or an input of some stage; two processes may write the same file
    partial = file.parent.parent / f".{file.parent.name}-{file.name}.{os.getpid()}.partial"
    with partial.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
