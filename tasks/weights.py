"""Brings a file with pretrained weights into `data/raw/_weights/`, as the download stage brings datasets.

The train stage calls this: params.yaml has the file's checksum, so DVC knows from the parameters which weights an
experiment needs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.download import from_first, get_file
from tasks.workspace.files import scratch
from tasks.workspace.paths import weights_file

if TYPE_CHECKING:
    from learn.models.blocks.weights import Weights

FOLDER = "weights"  # on a mirror: MIRROR/weights/FILE
LARGEST = 2**33  # bytes; if a server sends more, it is another file


def bring_weights(experiment: str, weights: Weights, mirror: str | None) -> Path:
    """Returns the path of a file with weights, after downloading it if it is not there with the right checksum.

    Args:
        experiment: The name of the experiment, for messages.
        weights: The file.
        mirror: A folder or an address to try first; None for none.

    Raises:
        DownloadError: No source has the file; the text has the reason of each.
        NetworkError: The same, and a reason is a failure of the network, so a later attempt may work.
    """
    file = weights_file(weights.file, weights.sha256)
    if file.is_file() and _sha256(file).startswith(weights.sha256):
        return file
    places = [f"{mirror.rstrip('/')}/{FOLDER}/{weights.file}"] if mirror else []
    places += [weights.source] if weights.source else []

    def attempt(place: str) -> None:
        get_file(place, str(partial / weights.file), LARGEST)
        if not (found := _sha256(partial / weights.file)).startswith(weights.sha256):
            raise ValueError(f"the file has the sha256 {found}, not {weights.sha256}")

    with scratch(file.parent, file.name) as partial:
        from_first(
            experiment,
            places,
            attempt,
            what=f"{weights.file} with the sha256 {weights.sha256}",
            by_hand=f"put {weights.file} into FOLDER/{FOLDER}/",
        )
        (partial / weights.file).replace(file)
    return file


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
