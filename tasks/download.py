"""Source → `data/raw/D/`: generated from its seed, or downloaded, checked against its published checksum.

    python -m tasks.download circles

A mirror (the variable DATA_MIRROR, or `mirror` in params.yaml) is tried before the official hosts. Files that are
already there and right are kept.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from learn.datasets import Downloaded, Generated
from learn.errors import DownloadError, NetworkError
from learn.params import PARAMS_FILE, Params
from tasks.stage import atomic_folder, raw_folder, run_stage

if TYPE_CHECKING:
    import pooch

ATTEMPTS = 4  # at each source, where the network fails; waits of about 1, 2, 4 seconds between them


def download(params: Params, name: str) -> None:
    """Brings a dataset's raw files into data/raw/NAME/."""
    source = params.dataset(name).source
    folder = raw_folder(name)
    if isinstance(source, Generated):
        with atomic_folder(folder) as partial:
            for file, array in zip(source.files, source.generate(), strict=True):
                np.save(partial / file, array)
    elif isinstance(source, Downloaded):
        folder.mkdir(parents=True, exist_ok=True)
        for file, checksum in source.checksums.items():
            fetch(name, source, file, checksum, folder, os.environ.get("DATA_MIRROR") or params.mirror)
        for path in folder.iterdir():
            if path.name not in source.files:  # left by a download that was killed
                path.unlink()
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"download {name}: {len(source.files)} files, {size:,} bytes → {folder}")


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
    reasons, kind = [], DownloadError
    for place in places:
        print(f"download {name}: {file} from {place}")
        try:
            pooch.retrieve(place, checksum, fname=file, path=folder, downloader=_get)
        except (
            OSError,
            ValueError,
        ) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
            reasons.append(f"  {place}: {_reason(error)}")
            kind = NetworkError if _is_passing(error) else kind
        else:
            return
    raise kind(
        f"{name}: no source gave {file} with the published checksum {checksum}. Tried:\n"
        + "\n".join(reasons)
        + f"\nTo provide it by hand: put {', '.join(source.files)} into FOLDER/{source.folder}/, "
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
