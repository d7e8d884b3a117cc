"""Source → `data/raw/D/`: generated from its seed, or downloaded, checked against its published checksum.

    python -m tasks.download circles

A mirror (the variable DATA_MIRROR, or `mirror` in params.yaml) is tried before the official hosts. Files that are
already there and right are kept.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from learn.archives import gather, tree_digest
from learn.datasets import Downloaded, Generated, Images, Photos, PizzaSteakSushi
from learn.errors import DataError, DownloadError, NetworkError
from learn.params import PARAMS_FILE, Params
from tasks.stage import atomic_folder, raw_folder, run_stage

if TYPE_CHECKING:
    import pooch

ATTEMPTS = 4  # at each source, where the network fails; waits of about 1, 2, 4 seconds between them


def download(params: Params, name: str) -> None:
    """Brings a dataset's raw files into data/raw/NAME/."""
    source = params.dataset(name).source
    folder = raw_folder(name)
    mirror = os.environ.get("DATA_MIRROR") or params.mirror
    if isinstance(source, Generated):
        with atomic_folder(folder) as partial:
            for file, array in zip(source.files, source.generate(), strict=True):
                np.save(partial / file, array)
    elif isinstance(source, Photos):
        if not folder.is_dir() or tree_digest(folder) != source.tree_sha256:
            with atomic_folder(folder) as partial:
                fetch_photos(name, source, partial, mirror)
    elif isinstance(source, Downloaded):
        folder.mkdir(parents=True, exist_ok=True)
        for file, checksum in source.checksums.items():
            fetch(name, source, file, checksum, folder, mirror)
        for path in folder.iterdir():
            if path.name not in source.files:  # left by a download that was killed
                path.unlink()
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    print(f"download {name}: {len(sizes)} files, {sum(sizes):,} bytes → {folder}")


def fetch(name: str, source: Downloaded, file: str, checksum: str, folder: Path, mirror: str | None) -> None:
    """One file from the first source that has it with the right checksum.

    Raises DownloadError with every reason; NetworkError where one of them may pass.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    path = folder / file
    if path.is_file():
        if pooch.hashes.hash_matches(str(path), checksum):
            return
        path.unlink()
        print(f"download {name}: {path} had a wrong checksum and was deleted")
    places = [host + file for host in source.hosts]
    if mirror:
        places.insert(0, f"{mirror.rstrip('/')}/{source.folder}/{file}")
    _from_first(
        name,
        places,
        lambda place: pooch.retrieve(place, checksum, fname=file, path=folder, downloader=_get),
        what=f"{file} with the published checksum {checksum}",
        by_hand=f"put {', '.join(source.files)} into FOLDER/{source.folder}/",
    )


def fetch_photos(name: str, source: Photos, folder: Path, mirror: str | None) -> None:
    """All photos of a dataset, from where the user has them or from the first source with the right ones."""
    if isinstance(source, Images):
        try:
            gather(Path(source.path), folder)
        except DataError as error:
            raise DataError(
                f"datasets.{name}.source.path: {error}\n"
                f"If DVC has these photos, `dvc pull` or `dvc checkout` brings them into {raw_folder(name)}."
            ) from error
        _check_tree(source, folder, f"`trackway add-images {name} {source.path}` takes what is there now")
        return
    assert isinstance(source, PizzaSteakSushi)

    def attempt(place: str) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as packed:
            archive = Path(packed) / source.archive
            _get(place, str(archive), None)
            gather(archive, folder)
        _check_tree(source, folder, "the archive is not the published one")

    places = [host + source.archive for host in source.hosts]
    if mirror:
        places.insert(0, f"{mirror.rstrip('/')}/{source.archive}")
    _from_first(
        name,
        places,
        attempt,
        what=f"{source.archive} with the published photos",
        by_hand=f"put {source.archive} into FOLDER/",
    )


def _check_tree(source: Photos, folder: Path, hint: str) -> None:
    """Raises DataError, with the photos deleted, where they are not the ones that were asked for."""
    found = tree_digest(folder)
    if found != source.tree_sha256:
        for path in folder.iterdir():
            shutil.rmtree(path)
        raise DataError(f"the photos have the sha256 {found}, not {source.tree_sha256} as in {PARAMS_FILE}: {hint}")


def _from_first(name: str, places: list[str], attempt: Callable[[str], Any], what: str, by_hand: str) -> None:
    """The first place at which the attempt succeeds.

    Raises DownloadError with every reason; NetworkError where one of them may pass.
    """
    reasons, kind = [], DownloadError
    for place in places:
        print(f"download {name}: {place}")
        try:
            attempt(place)
        except (OSError, ValueError, DataError) as error:
            # requests' errors are OSErrors; pooch's wrong checksum is a ValueError
            reasons.append(f"  {place}: {_reason(error)}")
            kind = NetworkError if _is_passing(error) else kind
        else:
            return
    raise kind(
        f"{name}: no source gave {what}. Tried:\n" + "\n".join(reasons) + f"\nTo provide it by hand: {by_hand}, "
        f"set DATA_MIRROR=FOLDER (or mirror: in {PARAMS_FILE}), and run this again."
    )


def _get(place: str, output_file: str, pooch_instance: pooch.Pooch | None) -> None:
    """pooch's way to get one file, from a folder or from a web server, the latter with patience."""
    if "://" not in place or place.startswith("file://"):
        shutil.copyfile(place.removeprefix("file://"), output_file)
        return
    import pooch
    import tenacity

    get: Any = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)
    for attempt in tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential_jitter(initial=1, max=30),
        retry=tenacity.retry_if_exception(_is_passing),
        before_sleep=lambda state: print(f"  attempt {state.attempt_number} failed; trying again"),
        reraise=True,
    ):
        with attempt:
            get(place, output_file, pooch_instance)


def _is_passing(error: BaseException) -> bool:
    """The network's fault, or a server's that says so: not a file that is not there or has a wrong checksum."""
    import requests

    if isinstance(error, requests.HTTPError):
        return error.response.status_code in (408, 429, 500, 502, 503, 504)
    return isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 240 else text[:237] + '...'}"


if __name__ == "__main__":
    run_stage(download, "datasets")
