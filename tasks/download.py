"""Brings a dataset's raw files into `data/raw/D/`: generated from a seed, or downloaded and checked by their checksums.

    python -m tasks.download circles

A mirror (the environment variable DATA_MIRROR, or `mirror` in params.yaml) is tried before the official hosts. Files
that are there already with the right checksum are kept.
"""

from __future__ import annotations

import queue
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from learn.data.datasets.images import Images
from learn.data.datasets.pizza_steak_sushi import PizzaSteakSushi
from learn.data.datasets.table import Table
from learn.data.photos.archives import gather, tree_digest
from learn.data.source import Downloaded, Generated, Photos
from learn.errors import DataError, DownloadError, NetworkError
from tasks.inputs import watched
from tasks.params import PARAMS_FILE, Params
from tasks.stage import run_stage
from tasks.workspace.files import atomic_folder, save_array, scratch, sha256
from tasks.workspace.paths import raw_folder

if TYPE_CHECKING:
    import pooch

ATTEMPTS = 4  # attempts at each source if the network fails, with waits of about 1, 2 and 4 seconds between them
SILENCE = 30.0  # seconds without an answer after which an attempt has failed
START = 60.0  # seconds in which a transfer may be slower than SLOWEST
SLOWEST = 16 * 2**10  # bytes per second, the slowest mean speed after START


def download(params: Params, name: str) -> str:
    """Brings a dataset's raw files into data/raw/NAME/."""
    source = params.dataset(name).source
    folder = raw_folder(name)
    mirror = params.first_mirror
    if isinstance(source, Generated):
        with atomic_folder(folder) as partial:
            with watched("download", name):
                arrays = source.generate()
                source.check(name, *arrays)
            for file, array in zip(source.files, arrays, strict=True):
                save_array(partial / file, array)
    elif isinstance(source, Photos):
        if not folder.is_dir() or tree_digest(folder) != source.tree_sha256:
            with atomic_folder(folder) as partial:
                fetch_photos(name, source, partial, mirror)
    elif isinstance(source, Table):
        if not (folder / source.file).is_file() or sha256(folder / source.file) != source.sha256:
            with atomic_folder(folder) as partial:
                _copy_table(name, source, partial)
    elif isinstance(source, Downloaded):
        for file, checksum in source.checksums.items():
            fetch(name, source, file, checksum, folder, mirror)
        for path in folder.iterdir():
            if path.name not in source.files:
                path.unlink()
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    print(made := f"download {name}: {len(sizes)} files, {sum(sizes):,} bytes → {folder}")
    return made


def fetch(name: str, source: Downloaded, file: str, checksum: str, folder: Path, mirror: str | None) -> None:
    """Downloads one file from the first source that has it with the right checksum.

    Args:
        name: The dataset's name, for messages.
        source: The dataset.
        file: The file's name.
        checksum: Its published checksum, `md5:...`.
        folder: The folder for the file; if it is there already with the right checksum, nothing is downloaded.
        mirror: A folder or an address to try first; None for none.

    Raises:
        DownloadError: No source has the file; the text has the reason of each.
        NetworkError: The same, and a reason is a failure of the network, so a later attempt may work.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    if path.is_file():
        if pooch.hashes.hash_matches(str(path), checksum):
            return
        path.unlink()
        print(f"download {name}: {path} had a wrong checksum and was deleted")
    places = [host + file for host in source.hosts]
    if mirror:
        places.insert(0, f"{mirror.rstrip('/')}/{source.folder}/{file}")

    def get(place: str, output_file: str, _: pooch.Pooch | None) -> None:
        get_file(place, output_file, source.largest)

    with scratch(folder.parent, folder.name) as partial:
        from_first(
            name,
            places,
            lambda place: pooch.retrieve(place, checksum, fname=file, path=partial, downloader=get),
            what=f"{file} with the published checksum {checksum}",
            by_hand=f"put {', '.join(source.files)} into FOLDER/{source.folder}/",
        )
        (partial / file).replace(path)


def fetch_photos(name: str, source: Photos, folder: Path, mirror: str | None) -> None:
    """Copies a user's photos into a folder, or downloads published ones from the first source that has the right ones.

    Args:
        name: The dataset's name, for messages.
        source: The dataset.
        folder: The empty folder for the photos.
        mirror: A folder or an address to try first; None for none.

    Raises:
        DataError: The user's photos cannot be copied, or are not those that params.yaml describes.
        DownloadError: No source has the photos; the text has the reason of each.
        NetworkError: The same, and a reason is a failure of the network, so a later attempt may work.
    """
    if isinstance(source, Images):
        try:
            gather(Path(source.path), folder)
        except DataError as error:
            raise DataError(
                f"datasets.{name}.source.path: {error}\n"
                f"If DVC has these photos, `dvc pull` or `dvc checkout` brings them into {raw_folder(name)}."
            ) from error
        _check_tree(source, folder, f"`trackway add-images {name} {shlex.quote(source.path)}` takes what is there now")
        return
    assert isinstance(source, PizzaSteakSushi)

    def attempt(place: str) -> None:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as packed:
            archive = Path(packed) / source.archive
            get_file(place, str(archive), source.largest)
            gather(archive, folder)
        _check_tree(source, folder, "the archive is not the published one")

    places = [host + source.archive for host in source.hosts]
    if mirror:
        places.insert(0, f"{mirror.rstrip('/')}/{source.archive}")
    from_first(
        name,
        places,
        attempt,
        what=f"{source.archive} with the published photos",
        by_hand=f"put {source.archive} into FOLDER/",
    )


def _check_tree(source: Photos, folder: Path, hint: str) -> None:
    """Deletes the photos and raises DataError if they are not the ones that params.yaml describes."""
    found = tree_digest(folder)
    if found != source.tree_sha256:
        for path in folder.iterdir():
            shutil.rmtree(path)
        raise DataError(f"the photos have the sha256 {found}, not {source.tree_sha256} as in {PARAMS_FILE}: {hint}")


def _copy_table(name: str, source: Table, folder: Path) -> None:
    """Copies a user's table into a folder; raises DataError if it is not there, or not what params.yaml describes."""
    if not Path(source.path).is_file():
        raise DataError(
            f"datasets.{name}.source.path: {source.path} is not there\n"
            f"If DVC has this table, `dvc pull` or `dvc checkout` brings it into {raw_folder(name)}."
        )
    shutil.copyfile(source.path, folder / source.file)
    if (found := sha256(folder / source.file)) != source.sha256:
        command = f"trackway add-table {name} {shlex.quote(source.path)} --target {shlex.quote(source.target)}"
        raise DataError(
            f"the table has the sha256 {found}, not {source.sha256} as in {PARAMS_FILE}: `{command}` "
            "takes what is there now"
        )


def from_first(name: str, places: list[str], attempt: Callable[[str], Any], what: str, by_hand: str) -> None:
    """Calls the attempt with one place after another until it succeeds.

    Raises:
        DownloadError: It failed at every place; the text has the reason of each.
        NetworkError: The same, and a reason is a failure of the network, so a later attempt may work.
    """
    reasons, kind = [], DownloadError
    for place in places:
        print(f"download {name}: {place}")
        try:
            attempt(place)
        except (OSError, ValueError, DataError) as error:
            # The errors of requests are OSErrors; pooch raises ValueError for a wrong checksum.
            reasons.append(f"  {place}: {_reason(error)}")
            kind = NetworkError if _is_passing(error) else kind
        else:
            return
    reasons = reasons or ["  nothing, for it has no source, and no mirror is set"]
    raise kind(
        f"{name}: no source gave {what}. Tried:\n" + "\n".join(reasons) + f"\nTo provide it by hand: {by_hand}, "
        f"set DATA_MIRROR=FOLDER (or mirror: in {PARAMS_FILE}), and run this again."
    )


def get_file(place: str, output_file: str, largest: int) -> None:
    """Copies one file from a folder, or downloads it from a web server, with several attempts if the network fails.

    Args:
        place: A path or an address.
        output_file: The file to write.
        largest: Largest number of bytes to download; a longer file raises DataError.
    """
    if "://" not in place or place.startswith("file://"):
        shutil.copyfile(place.removeprefix("file://"), output_file)
        return
    import tenacity

    for attempt in tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential_jitter(initial=1, max=30),
        retry=tenacity.retry_if_exception(_is_passing),
        before_sleep=lambda state: print(f"  attempt {state.attempt_number} failed; trying again"),
        reraise=True,
    ):
        with attempt, Path(output_file).open("wb") as stream:
            received = Received(stream, largest)
            _within_time(place, received)
    if received.start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise DataError("the server sent an HTML page, not the file: perhaps one to log in, or an error's")


class SlowError(OSError):
    """A transfer is too slow and was given up."""


class Received:
    """The stream that pooch writes received bytes to; it counts them, and ends the transfer if there are too many."""

    def __init__(self, stream: BinaryIO, largest: int) -> None:
        self.stream, self.largest = stream, largest
        self.size, self.start, self.given_up = 0, b"", False

    def write(self, chunk: bytes) -> None:
        """Writes received bytes.

        Raises:
            SlowError: The transfer was given up.
            DataError: More bytes were received than the file may have.
        """
        if self.given_up:
            raise SlowError("given up")
        self.size += len(chunk)
        if self.size > self.largest:
            raise DataError(f"the server sends more than {self.largest:,} bytes, so it is another file; given up")
        self.start = self.start or chunk[:100]
        self.stream.write(chunk)

    def flush(self) -> None:
        """Does nothing: pooch calls it after every kilobyte, and closing the file flushes it anyway."""


def _within_time(place: str, received: Received) -> None:
    """Downloads in a separate thread, so that a server that sends a byte now and then cannot block this process.

    The thread of a download that was given up ends with its socket, or with this process at the latest.

    Raises:
        SlowError: The transfer is too slow.
    """
    import pooch

    get: Any = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=SILENCE)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            get(place, received, None)
            ended.put(None)
        except BaseException as error:  # raised again below
            ended.put(error)

    threading.Thread(target=run, daemon=True).start()
    started = time.monotonic()
    while True:
        try:
            error = ended.get(timeout=0.2)
            break
        except queue.Empty:
            seconds = time.monotonic() - started
            if received.size < SLOWEST * (seconds - START):
                received.given_up = True
                raise SlowError(f"only {received.size:,} bytes in {seconds:.0f} seconds; given up") from None
    if error:
        raise error


def _is_passing(error: BaseException) -> bool:
    """Returns whether a later attempt may work: the network failed, or the server says that it cannot answer now.

    A file that is missing or has a wrong checksum will not get better.
    """
    import requests

    if isinstance(error, requests.HTTPError):
        return error.response.status_code in (408, 429, 500, 502, 503, 504)
    return isinstance(
        error, SlowError | requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError
    )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 240 else text[:237] + '...'}"


if __name__ == "__main__":
    run_stage(download, "datasets")
