"""What the six stages share: their command line, their folders, and writing so that a kill leaves nothing half done."""

from __future__ import annotations

import argparse
import atexit
import errno
import fcntl
import gc
import glob
import hashlib
import math
import os
import resource
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote

import learn
from learn.data.transformed import EVALUATION, TRAINING
from learn.errors import TrackwayError
from tasks.inputs import DVC_YAML, check_imports, helpers
from tasks.outcome import Outcome, tell
from tasks.params import PARAMS_FILE, Params, load_params

if TYPE_CHECKING:
    import numpy as np
    import torch
    from filelock import FileLock

# Written once the parameters have passed tasks/params/preflight.py: the next stage need not import torch for it.
CHECKED = Path(".dvc/tmp/params-checked")
REPORT = "report.json"  # in data/transformed/D/: what the checks of photos found
WAITING = "TRACKWAY_WAITING"  # the environment variable in which a flow names a file: it is there while a stage waits
LOCKS = Path(".dvc/tmp/stages")  # a lock for each stage
MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)  # a full or read-only disk


def run_stage(stage: Callable[[Params, str], str | Outcome], what: str) -> None:
    """The command line of a stage, `python -m tasks.STAGE NAME`. A user's mistake ends in its message, exit code 1.

    stage: returns what it made, in a line that it has printed.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tasks.{stage.__name__}", description=stage.__doc__)
    parser.add_argument("name", help=f"one of the {what} in {PARAMS_FILE}, or the stage's name in DVC: KIND@NAME")
    name = parser.parse_args().name.removeprefix(f"{stage.__name__}@")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    collect_garbage_rarely()
    try:
        params = checked_params()
        with _one_process(stage.__name__, name):
            made = stage(params, name)
        tell(made if isinstance(made, Outcome) else Outcome(made))
    except TrackwayError as error:
        tell(Outcome(error.as_message(), error=type(error).__name__))
        print(error.as_message(), file=sys.stderr)
        sys.exit(error.exit_code)
    except FileNotFoundError as error:
        if not str(error.filename).startswith(("data/", "models/", "metrics/", "plots/")):
            raise
        sys.exit(f"error: {error.filename} is not there; `dvc repro {stage.__name__}@{name}` makes what comes before")
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        sys.exit(f"error: {cannot_write(f'{stage.__name__} {name}', error)}")
    except KeyboardInterrupt:
        sys.exit(130)
    end_at_once()


def cannot_write(what: str, error: OSError) -> str:
    """The message of an error in MENDABLE. what: the stage or command that met it."""
    file = error.filename2 or error.filename  # of a copy the second is written
    return (
        f"{what} cannot write{f' {file}' if file else ''}: {error.strerror}; "
        "nothing is half written: make room or give the right to write, and run it again"
    )


def _one_process(kind: str, name: str) -> AbstractContextManager[None]:
    """One process at a time works on a stage in this folder, whoever started it."""
    if not LOCKS.parent.parent.is_dir():
        return nullcontext()  # not DVC's folder
    from filelock import FileLock

    LOCKS.mkdir(parents=True, exist_ok=True)
    waiting = f"{kind} {name}: another process is at work on this stage; waiting for it to end"
    return one_at_a_time(FileLock(LOCKS / f"{kind}-{quote(name, safe='')}.lock"), lambda: print(waiting))


def collect_garbage_rarely() -> None:
    """Imports of large libraries make millions of objects and no garbage; looking for it is a quarter of their time."""
    gc.set_threshold(100_000, 20, 100)


def end_at_once(code: int = 0) -> NoReturn:
    """Ends a process whose work is done. Python would first take apart all that torch and MLflow made: 0.7 seconds."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def checked_params(path: Path = PARAMS_FILE) -> Params:
    """The parameters, after every check that needs no work; the slow ones run once a change. Raises ParamsError,
    and GraphError if a stage would run code that dvc.yaml does not list."""
    code = (Path(learn.__file__).parent, Path(__file__).parent / "params")
    files = [path, DVC_YAML, *sorted(file for folder in code for file in folder.rglob("*.py")), *sorted(helpers())]
    digest = hashlib.sha256(version("torch").encode())
    for file in files:
        digest.update(file.read_bytes() if file.is_file() else b"")
    if CHECKED.is_file() and CHECKED.read_text() == digest.hexdigest():
        return load_params(path)
    from tasks.params.preflight import check

    params = check(path)
    check_imports(params)
    if CHECKED.parent.is_dir():
        write_atomically(CHECKED, digest.hexdigest().encode())
    return params


def raw_folder(dataset: str) -> Path:
    return Path("data/raw") / dataset


def split_folder(dataset: str) -> Path:
    return Path("data/split") / dataset


def transformed_folder(dataset: str) -> Path:
    return Path("data/transformed") / dataset


def training_folder(dataset: str) -> Path:
    """What a training reads."""
    return transformed_folder(dataset) / TRAINING


def evaluation_folder(dataset: str) -> Path:
    """What an evaluation reads beside that."""
    return transformed_folder(dataset) / EVALUATION


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
        with not_counted():
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def not_counted() -> Iterator[None]:
    """Meanwhile the stage waits for another one, and its flow's clock stands: the file that the flow named is there."""
    file = Path(os.environ.get(WAITING, os.devnull))
    if file == Path(os.devnull):
        yield
        return
    file.touch()
    try:
        yield
    finally:
        file.unlink()


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into; it takes the place of the old one when all is written.

    Two processes may do so at once: each writes into a folder of its own, and the last to end wins.
    """
    with scratch(folder.parent, folder.name) as partial:
        yield partial
        _swap(partial, folder)


def save_array(file: Path, array: np.ndarray) -> None:
    """`np.save`, but a full disk raises an OSError with its errno: into a file of its own NumPy writes without one."""
    import numpy as np

    with file.open("wb") as stream:
        np.save(SimpleNamespace(write=stream.write), array)


def write_atomically(file: Path, content: bytes) -> None:
    """The whole file or none of it, whenever the power goes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # not beside it: its folder may be an output or an input of some stage
    with scratch(file.parent.parent, f"{file.parent.name}-{file.name}") as folder:
        partial = folder / file.name
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)


@contextmanager
def scratch(parent: Path, name: str) -> Iterator[Path]:
    """A folder `.NAME.….partial` of this process alone, on the disk of its parent; removed at the end.

    It is locked as long as this process lives. So what others of that name were killed over is known, and removed
    first; an old folder that was out of its place in that moment is put back.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _clean_up(parent, name)
    while True:
        folder = _unique(parent, name)
        folder.mkdir()
        if (lock := _lock(folder, wait=True)) is not None or folder.exists():  # some network disks know no locks
            break  # otherwise another process found it before it was locked
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


OLD = ".old"  # in the name of a folder that is about to be replaced


def _unique(parent: Path, name: str, kind: str = "") -> Path:
    return parent / f".{name}.{uuid.uuid4().hex[:12]}{kind}.partial"


def _swap(new: Path, folder: Path) -> None:
    """Puts a folder in another's place. The old one is whole in its place, or beside it, until the new one is there."""
    old = _unique(folder.parent, folder.name, OLD)
    while True:
        with suppress(FileNotFoundError):
            folder.rename(old)
        try:
            new.rename(folder)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with suppress(OSError):
                    old.rename(folder)
                raise
        shutil.rmtree(old, ignore_errors=True)  # another process put its own there in between
    shutil.rmtree(old, ignore_errors=True)


def _clean_up(parent: Path, name: str) -> None:
    """Removes what killed processes left; what is locked belongs to a living one."""
    for left in sorted(parent.glob(f".{glob.escape(name)}.*.partial")):
        if (lock := _lock(left)) is not None:
            if left.stem.endswith(OLD) and not (parent / name).exists():
                with suppress(OSError):
                    left.rename(parent / name)
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path, wait: bool = False) -> int | None:
    """The open folder with the operating system's lock on it; None if another process has that, or removed it."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(opened), folder.stat()):
            return opened
    except OSError:
        pass
    os.close(opened)
    return None
