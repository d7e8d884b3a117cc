"""What the transform stage does with photos: every file decoded once, on all cores, and looked at before any training.

The report of the checks goes to the terminal, into DVC with the transformed data (report.json), and into MLflow with
every run that is trained on them.
"""

from __future__ import annotations

import hashlib
import shlex
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from joblib import cpu_count

from learn.data.datasets.images import Images
from learn.data.photos.decode import Mode, PhotoError, open_photo, photo_pixels, to_array
from learn.data.source import Photos
from learn.errors import DataError
from tasks.params import Dataset
from tasks.workspace.files import save_array
from tasks.workspace.paths import REPORT, raw_folder

NEAR = 4  # of 64 bits in which the perceptual hashes of near-duplicates may differ
IMBALANCE = 3.0  # times as many photos in the largest class as in the smallest
EXTREME = 4.0  # times as wide as high, or the other way round
SHOWN = 10  # files that are named in the terminal; the report has them all


# What the checks need to know of a photo, 56 bytes; its pixels are in the part's file.
SEEN = np.dtype(
    [
        ("number", np.int64),  # index into the source's photos
        ("width", np.int32),
        ("height", np.int32),
        ("sha256", "S32"),  # of the file; numpy takes null bytes at the end away, from all alike
        ("looks", np.uint64),  # 64 bits: similar pictures differ in few
    ]
)


@dataclass(frozen=True)
class Photo:
    """One decoded file, until it is written."""

    pixels: np.ndarray  # (channels, size, size) uint8
    width: int
    height: int
    sha256: bytes
    looks: int


@dataclass(frozen=True)
class Broken:
    reason: str


@dataclass(frozen=True)
class Problem:
    """One finding: a sentence for the terminal, and the files that it is about."""

    kind: str
    text: str
    files: list[str]


def transform_photos(
    name: str, dataset: Dataset, parts: dict[str, np.ndarray], folders: dict[str, Path]
) -> dict[str, Any]:
    """Writes each part's inputs and targets into its folder; returns the report.

    parts: part → indices into the source's photos. Raises DataError, with all of them named, where files are broken
    and `transform.broken` is stop.
    """
    source, settings = dataset.source, dataset.transform
    assert isinstance(source, Photos)
    assert settings.resize
    files = source.photos(raw_folder(name))
    names, labels = [file for file, _ in files], np.array([label for _, label in files], np.int64)
    broken: dict[str, str] = {}
    known: dict[str, np.ndarray] = {}  # part → (N,) SEEN
    from tqdm import tqdm

    with tqdm(total=len(files), desc=f"transform {name}", unit="photo", disable=not sys.stderr.isatty()) as bar:
        for part, index in parts.items():
            file = folders[part] / f"{part}-inputs.npy"
            known[part], reasons = _write_inputs(dataset, raw_folder(name), names, index, file, bar.update)
            broken |= reasons
            save_array(folders[part] / f"{part}-targets.npy", labels[known[part]["number"]])
    if broken and settings.broken == "stop":
        raise DataError(_unreadable(name, source, len(files), broken))
    found = problems(source.classes, names, known, labels, broken, settings.resize)
    _print_problems(name, found)
    for part, kept in known.items():
        if not len(kept):
            raise DataError(f"the {part} part of {name} has no photo that can be read; it must have some")
    return {"photos": _counts(source.classes, known, labels), "problems": [vars(problem) for problem in found]}


def _unreadable(name: str, source: Photos, photos: int, broken: dict[str, str]) -> str:
    """The message about photos that cannot be read. broken: file → why."""
    again = ""
    if isinstance(source, Images):
        again = f" and run trackway add-images {name} {shlex.quote(source.path)} again"
    return (
        f"{len(broken)} of the {photos:,} photos of {name} cannot be read:\n"
        + "\n".join(f"  {raw_folder(name) / file}: {reason}" for file, reason in broken.items())
        + f"\nMend or remove them where they come from{again}, "
        f"or set datasets.{name}.transform.broken to leave_out."
    )


def _print_problems(name: str, found: list[Problem]) -> None:
    for problem in found:
        print(f"transform {name}: {problem.kind}: {problem.text}")
        for line in problem.files[:SHOWN]:
            print(f"  {line}")
        if len(problem.files) > SHOWN:
            print(f"  and {len(problem.files) - SHOWN} more, in {REPORT}")


def _write_inputs(
    dataset: Dataset, folder: Path, names: list[str], index: np.ndarray, file: Path, tick: Callable[[], object]
) -> tuple[np.ndarray, dict[str, str]]:
    """Decodes the photos of one part into its .npy file. Returns what was seen, (N,) SEEN, and name → why not.

    Written row by row and not through a memory map, whose pages would count as this process's memory.
    """
    settings = dataset.transform
    assert settings.mode
    assert settings.resize
    seen, kept, broken = np.zeros(len(index), SEEN), 0, {}
    with file.open("w+b") as stream:
        _write_header(stream, (len(index), *dataset.shape))
        paths = (folder / names[number] for number in index)
        for number, found in zip(index, _decoded(paths, settings.mode, settings.resize), strict=True):
            tick()
            if isinstance(found, Broken):
                broken[names[number]] = found.reason
            else:
                stream.write(found.pixels.tobytes())
                seen[kept] = (number, found.width, found.height, found.sha256, found.looks)
                kept += 1
        stream.seek(0)
        _write_header(stream, (kept, *dataset.shape))
    return seen[:kept], broken


def _write_header(stream: BinaryIO, shape: tuple[int, ...]) -> None:
    """Of an .npy file of bytes. numpy leaves room in it, so its length is the same for any number of rows."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def _decoded(paths: Iterable[Path], mode: Mode, size: int) -> Iterator[Photo | Broken]:
    """In order, on all cores (Pillow's decoders let other threads run); a few photos ahead, so memory stays small."""
    todo, room = iter(paths), Room(AT_ONCE)
    with ThreadPoolExecutor(cpu_count()) as pool:
        ahead = deque(pool.submit(_decode, path, mode, size, room) for path in islice(todo, AHEAD * cpu_count()))
        while ahead:
            found = ahead.popleft().result()
            ahead.extend(pool.submit(_decode, path, mode, size, room) for path in islice(todo, 1))
            yield found


AHEAD = 8  # photos a core
AT_ONCE = 64 * 2**20  # pixels that are decoded at a time: 256 MB, for Pillow takes 4 bytes for each


class Room:
    """So much may be in use at a time; what is larger waits until it is alone."""

    def __init__(self, size: int) -> None:
        self.size = self.free = size
        self.changed = threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        amount = min(amount, self.size)
        with self.changed:
            self.changed.wait_for(lambda: self.free >= amount)
            self.free -= amount
        try:
            yield
        finally:
            with self.changed:
                self.free += amount
                self.changed.notify_all()


def _decode(path: Path, mode: Mode, size: int, room: Room) -> Photo | Broken:
    import imagehash
    from PIL import Image

    with room.taken(photo_pixels(path)):
        try:
            image = open_photo(path, mode)
        except PhotoError as error:
            return Broken(str(error))
        pixels, (width, height) = to_array(image, size), image.size
        del image
    small = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    looks = int.from_bytes(np.packbits(imagehash.phash(small).hash).tobytes())
    with path.open("rb") as stream:
        return Photo(pixels, width, height, hashlib.file_digest(stream, "sha256").digest(), looks)


def _counts(classes: tuple[str, ...], known: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, dict[str, int]]:
    """Part → class → photos."""
    return {
        part: dict(
            zip(classes, np.bincount(labels[photos["number"]], minlength=len(classes)).tolist(), strict=True),
        )
        for part, photos in known.items()
    }


# ---- the checks


def problems(
    classes: tuple[str, ...],
    names: list[str],
    known: dict[str, np.ndarray],
    labels: np.ndarray,
    broken: dict[str, str],
    size: int,
) -> list[Problem]:
    """What a person should know before training on these photos; nothing, where all is well.

    names, labels: of all of the source's photos; known: part → (N,) SEEN, without those that cannot be read.
    """
    repeated = _repeated(known)
    return [
        *_broken(broken),
        *_classes(_counts(classes, known, labels)),
        *_two_labels(names, known, labels, repeated),
        *_twice(names, known, repeated),
        *_sizes(names, known, size),
    ]


def _repeated(known: dict[str, np.ndarray]) -> set[bytes]:
    """The hashes that several photos have; mostly few, so that not every photo has to stand in a dictionary."""
    hashes, counts = np.unique(np.concatenate([photos["sha256"] for photos in known.values()]), return_counts=True)
    return set(hashes[counts > 1].tolist())


def _broken(broken: dict[str, str]) -> Iterator[Problem]:
    if broken:
        files = [f"{file}: {reason}" for file, reason in broken.items()]
        yield Problem("left out", f"{len(broken)} {'file' if len(broken) == 1 else 'files'} cannot be read", files)


def _classes(counts: dict[str, dict[str, int]]) -> Iterator[Problem]:
    for name in counts["train"]:
        parts = [part for part in counts if counts[part][name]]
        if not parts:
            yield Problem("empty class", f"{name} has no photos", [])
        elif len(parts) < len(counts):
            missing = ", ".join(part for part in counts if part not in parts)
            yield Problem("missing class", f"{name} has photos in {', '.join(parts)} and none in {missing}", [])
    present = {name: number for name, number in counts["train"].items() if number}
    if present and max(present.values()) >= IMBALANCE * min(present.values()):
        most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        yield Problem(
            "imbalance",
            f"{most} has {present[most]:,} photos for training, {least} {present[least]:,}; "
            + _balance(tuple(counts["train"]), present),
            [],
        )


def _balance(classes: tuple[str, ...], present: dict[str, int]) -> str:
    """Class weights by which each class counts the same in the training loss, as scikit-learn's `balanced` has them."""
    if len(present) < len(classes):
        return "more photos can make up for it"
    mean = sum(present.values()) / len(classes)
    weights = ", ".join(f"{mean / present[name]:.3g}" for name in classes)
    binary = ""
    if len(classes) == 2:
        binary = f" (for BCEWithLogitsLoss pos_weight: [{present[classes[0]] / present[classes[1]]:.3g}])"
    return f"more photos, or loss: {{name: CrossEntropyLoss, weight: [{weights}]}}{binary} can make up for it"


def _two_labels(
    names: list[str], known: dict[str, np.ndarray], labels: np.ndarray, repeated: set[bytes]
) -> Iterator[Problem]:
    """The same photo in two classes, in whichever parts."""
    first: dict[bytes, int] = {}
    found = []
    for photos in known.values():
        for number, sha256 in _with(photos, repeated):
            other = first.setdefault(sha256, number)
            if labels[number] != labels[other]:
                found.append(f"{names[number]} = {names[other]}")
    if found:
        yield Problem("two labels", f"{_photos(found)} also in another class", found)


def _with(photos: np.ndarray, repeated: set[bytes]) -> Iterator[tuple[int, bytes]]:
    """The number and hash of each photo whose hash is among these."""
    for row in photos:
        if (sha256 := bytes(row["sha256"])) in repeated:
            yield int(row["number"]), sha256


def _photos(files: list[str]) -> str:
    return "1 photo is" if len(files) == 1 else f"{len(files):,} photos are"


def _twice(names: list[str], known: dict[str, np.ndarray], repeated: set[bytes]) -> Iterator[Problem]:
    """The same photo in train and in another part."""
    train = known["train"]
    by_hash = {sha256: number for number, sha256 in _with(train, repeated)}
    for part, photos in known.items():
        exact, near = [], []
        for row in photos if part != "train" else []:
            if (twin := by_hash.get(bytes(row["sha256"]))) is not None:
                exact.append(f"{names[row['number']]} = {names[twin]}")
            elif len(train) and (distance := np.bitwise_count(train["looks"] ^ row["looks"])).min() <= NEAR:
                near.append(f"{names[row['number']]} ≈ {names[train['number'][distance.argmin()]]}")
        if exact:
            yield Problem("duplicate", f"{_photos(exact)} in {part} and also in train", exact)
        if near:
            yield Problem("near-duplicate", f"{_photos(near)} in {part} and almost so in train", near)


def _sizes(names: list[str], known: dict[str, np.ndarray], size: int) -> Iterator[Problem]:
    """Photos that resizing enlarges or distorts."""

    def chosen(which: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> list[str]:
        """which: from the shorter and the longer sides of photos to those that are meant."""
        return [
            f"{names[row['number']]}: {row['width']}×{row['height']}"
            for photos in known.values()
            for row in photos[which(*np.sort([photos["width"], photos["height"]], axis=0))]
        ]

    if tiny := chosen(lambda shorter, longer: shorter < size):
        yield Problem("tiny", f"{len(tiny)} photos are smaller than {size}×{size} and were enlarged", tiny)
    if extreme := chosen(lambda shorter, longer: longer > EXTREME * shorter):
        yield Problem("extreme", f"{len(extreme)} photos are far from square and were distorted", extreme)
