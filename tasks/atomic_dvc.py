"""Makes DVC write its own files whole or not at all, and parse params.yaml once, in this Python environment.

    python -m tasks.atomic_dvc

DVC writes dvc.lock in place, which takes 0.2 seconds after each stage. If it is stopped or killed in that time, it
leaves a truncated file, which it then reports as corrupted, or from which it concludes that stages never ran. It also
parses params.yaml once for each stage that it looks at (github.com/treeverse/dvc/issues/2671). So a line in the
environment's site-packages imports this module into each process of DVC, where it replaces three functions and the
reader of YAML.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tasks.lock_entries import Entries, dumped
from tasks.workspace.environment import OUTCOME

LINE = (
    "import sys; any(word.rpartition('/')[2] == 'dvc' for word in sys.orig_argv[1:3]) "
    "and __import__('importlib').import_module('tasks.atomic_dvc').mend()\n"
)


def install() -> None:
    """Writes LINE into `trackway.pth`, which Python runs when it starts (see Python's module `site`)."""
    Path(sysconfig.get_path("purelib"), "trackway.pth").write_text(LINE, encoding="utf-8")


def mend() -> None:
    """Replaces DVC's functions in this process, which must be one of DVC."""
    replace_writes()
    replace_lock_writer()
    parse_once()
    if OUTCOME in os.environ:  # a flow runs it, with --quiet
        tell_errors()


def parse_once() -> None:
    """Makes DVC parse a YAML file only once in this process, unless the file changes."""
    from dvc.fs import LocalFileSystem
    from dvc.utils.serialize import LOADERS, load_yaml

    parsed: dict[tuple[str, bytes], bytes] = {}

    def load(path: str, fs: Any = None, **arguments: Any) -> Any:
        local = fs is None or isinstance(fs, LocalFileSystem)  # otherwise it is a git revision
        if arguments or not (local and Path(path).is_file()):
            return load_yaml(path, fs, **arguments)
        key = path, Path(path).read_bytes()
        if key not in parsed:
            data = load_yaml(path, fs)
            parsed.clear()
            parsed[key] = pickle.dumps(data)
        return pickle.loads(parsed[key])  # a new copy, because DVC changes the data that it reads

    LOADERS[".yaml"] = load


def replace_lock_writer() -> None:
    """Makes DVC parse and write only the entries of dvc.lock that it changes, with the same text as before.

    DVC itself parses and writes the whole file by code in Python, because it could have comments. After each stage that
    takes 0.26 seconds if there are 31 stages, and 3 seconds if there are 400.
    """
    from dvc import dvcfile
    from dvc.fs import LocalFileSystem

    modify = dvcfile.modify_yaml

    @contextmanager
    def modify_lock(path: Any, fs: Any = None) -> Iterator[Any]:
        file = Path(path)
        entries = None
        if file.name == "dvc.lock" and isinstance(fs, LocalFileSystem) and file.is_file():
            with suppress(ValueError):
                entries = Entries(file.read_text(encoding="utf-8"))
        if entries is None:
            with modify(path, fs=fs) as data:
                yield data
            return
        data = {"schema": "2.0", "stages": entries}
        yield data
        whole = data.keys() > {"schema", "stages"}  # DVC has added a section of another kind
        text = dumped(data | {"stages": dict(entries)}) if whole else str(entries)
        with whole_file(path) as stream:
            stream.write(text)

    dvcfile.modify_yaml = modify_lock


def tell_errors() -> None:
    """Has `dvc --quiet` print errors; DVC itself prints none then, and ends without a word if the disk is full."""
    from dvc import logger
    from dvc.stage.exceptions import StageCmdFailedError

    def is_news(record: logging.LogRecord) -> bool:
        """Returns whether DVC says more than that a stage failed, which the stage itself has said."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error and error.__cause__, StageCmdFailedError)

    set_level = logger.set_loggers_level

    def at_least_errors(level: int = logging.INFO) -> AbstractContextManager[None]:
        return set_level(min(level, logging.ERROR))

    logger.set_loggers_level = at_least_errors
    logging.getLogger("dvc.cli").addFilter(is_news)
    for name in ("dvc", "dvc_objects", "dvc_data"):
        logging.getLogger(name).propagate = False  # another library's handler would add a traceback


def replace_writes() -> None:
    """Makes DVC write its YAML files and its list of paths in use whole or not at all.

    The YAML files are dvc.lock and, for `dvc exp run -S`, dvc.yaml and params.yaml.
    """
    from dvc import rwlock
    from dvc.fs import LocalFileSystem
    from dvc.utils.serialize import _common, _yaml

    dump, edit = _common._dump_data, rwlock._edit_rwlock

    def dump_whole(path: Any, data: Any, dumper: Callable[..., Any], fs: Any = None, **arguments: Any) -> None:
        if fs is not None and not isinstance(fs, LocalFileSystem):
            dump(path, data, dumper, fs, **arguments)
            return
        with whole_file(path) as stream:
            dumper(data, stream, **arguments)

    class Whole:
        """A local file system whose files are written whole."""

        def __init__(self, fs: Any) -> None:
            self.join = fs.join
            self._open = fs.open

        def open(self, path: str, mode: str = "r", **options: Any) -> AbstractContextManager[IO[Any]]:
            return whole_file(path) if mode == "w" else self._open(path, mode, **options)

    _common._dump_data = _yaml._dump_data = dump_whole
    rwlock._edit_rwlock = lambda folder, fs, hardlink: edit(folder, Whole(fs), hardlink)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """Opens a text file for writing, which replaces the old one when the block ends; DVC holds its lock meanwhile."""
    file = Path(os.path.realpath(path))
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileNotFoundError):  # the file is new
            shutil.copymode(file, partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    install()
    print(f"DVC writes its files whole in {sys.prefix}")
