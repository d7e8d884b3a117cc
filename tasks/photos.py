"""Decodes every photo once, on all cores, for the transform stage, and checks the photos before any training.

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
from learn.data.photos.decode import Fit, Mode, PhotoError, open_photo, photo_pixels, to_array
from learn.data.source import Photos
from learn.data.transformed import Problem, class_counts, class_problems
from learn.errors import DataError
from tasks.params import DatasetConfig
from tasks.workspace.files import save_array
from tasks.workspace.paths import REPORT, raw_folder

NEAR = 4  # largest number of bits, of 64, in which the perceptual hashes of near-duplicates differ
EXTREME = 4.0  # longer side divided by the shorter, above which a photo is far from square
SHOWN = 10  # largest number of files named in the terminal for a problem; the report names all


# What the checks need to know of a photo, 56 bytes; its pixels are in the split's file.
SEEN = np.dtype(
    [
        ("number", np.int64),  # index into the source's photos
        ("width", np.int32),
        ("height", np.int32),
        ("sha256", "S32"),  # of the file; numpy drops null bytes at the end, the same for equal hashes
        ("looks", np.uint64),  # perceptual hash, 64 bits; similar pictures differ in few of them
    ]
)


@dataclass(frozen=True)
class Photo:
    """One decoded photo that is not yet written."""

    pixels: np.ndarray  # (channels, size, size) uint8
    width: int
    height: int
    sha256: bytes
    looks: int  # perceptual hash, 64 bits


@dataclass(frozen=True)
class Broken:
    """A photo that cannot be read."""

    reason: str


def transform_photos(
    name: str, dataset: DatasetConfig, parts: dict[str, np.ndarray], folders: dict[str, Path]
) -> dict[str, Any]:
    """Writes each split's inputs and targets into its folder, and returns the report of the checks.

    Args:
        name: The dataset's name.
        dataset: The dataset.
        parts: Split → indices into the source's photos.
        folders: Split → the folder to write into.

    Raises:
        DataError: Photos cannot be read and `transform.broken` is stop (the text names them all), or a split has no
            photo left.
    """
    source, settings = dataset.source, dataset.transform
    assert isinstance(source, Photos)
    assert settings.resize
    files = source.photos(raw_folder(name))
    names, labels = [file for file, _ in files], np.array([label for _, label in files], np.int64)
    broken: dict[str, str] = {}
    known: dict[str, np.ndarray] = {}  # split → (N,) SEEN
    from tqdm import tqdm

    with tqdm(total=len(files), desc=f"transform {name}", unit="photo", disable=not sys.stderr.isatty()) as bar:
        for part, index in parts.items():
            file = folders[part] / f"{part}-inputs.npy"
            known[part], reasons = _write_inputs(dataset, raw_folder(name), names, index, file, bar.update)
            broken |= reasons
            save_array(folders[part] / f"{part}-targets.npy", labels[known[part]["number"]])
    if broken and settings.broken == "stop":
        raise DataError(_unreadable(name, source, len(files), broken))
    found = problems(source.classes, names, known, labels, broken, settings.resize, cropped=bool(settings.crop))
    print_problems(name, found)
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


def print_problems(name: str, found: list[Problem]) -> None:
    """Prints what the checks of a dataset found."""
    for problem in found:
        print(f"transform {name}: {problem.kind}: {problem.text}")
        for line in problem.files[:SHOWN]:
            print(f"  {line}")
        if len(problem.files) > SHOWN:
            print(f"  and {len(problem.files) - SHOWN} more, in {REPORT}")


def _write_inputs(
    dataset: DatasetConfig, folder: Path, names: list[str], index: np.ndarray, file: Path, tick: Callable[[], object]
) -> tuple[np.ndarray, dict[str, str]]:
    """Decodes the photos of one split into its .npy file.

    The file is written row by row, not through a memory map, whose pages would count as this process's memory.

    Args:
        dataset: The dataset.
        folder: The folder of the raw photos.
        names: Paths of all of the source's photos, below the folder.
        index: Indices of the split's photos.
        file: The file to write.
        tick: Called after each photo.

    Returns:
        What the checks need of the photos that could be read, (N,) SEEN, and name → reason for the others.
    """
    settings = dataset.transform
    assert settings.mode
    assert settings.fit
    seen, kept, broken = np.zeros(len(index), SEEN), 0, {}
    with file.open("w+b") as stream:
        _write_header(stream, (len(index), *dataset.shape))
        paths = (folder / names[number] for number in index)
        for number, found in zip(index, _decoded(paths, settings.mode, settings.fit), strict=True):
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
    """Writes the header of an .npy file of bytes; numpy pads it, so it has the same length for any number of rows."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def _decoded(paths: Iterable[Path], mode: Mode, fit: Fit) -> Iterator[Photo | Broken]:
    """Decodes photos on all cores, and yields them in order.

    Threads suffice, since Pillow's decoders release Python's lock. Only a few photos are decoded ahead, so that memory
    stays small.
    """
    todo, room = iter(paths), Room(AT_ONCE)
    with ThreadPoolExecutor(cpu_count()) as pool:
        ahead = deque(
            pool.submit(_decode, path, mode, fit, room) for path in islice(todo, PHOTOS_AHEAD_PER_CORE * cpu_count())
        )
        while ahead:
            found = ahead.popleft().result()
            ahead.extend(pool.submit(_decode, path, mode, fit, room) for path in islice(todo, 1))
            yield found


PHOTOS_AHEAD_PER_CORE = 8  # number of photos decoded ahead, for each core
AT_ONCE = 64 * 2**20  # largest number of pixels decoded at the same time; Pillow needs 4 bytes for each, 256 MB in all


class Room:
    """Limits how much of something is in use at the same time, such as pixels in memory."""

    def __init__(self, size: int) -> None:
        self.size = self.free = size
        self.changed = threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Waits until this amount is free and takes it for the block; an amount above the limit waits for all of it."""
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


def _decode(path: Path, mode: Mode, fit: Fit, room: Room) -> Photo | Broken:
    import imagehash
    from PIL import Image

    with room.taken(photo_pixels(path)):
        try:
            image = open_photo(path, mode)
            pixels, (width, height) = to_array(image, fit), image.size
        except PhotoError as error:
            return Broken(str(error))
        del image
    small = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    looks = int.from_bytes(np.packbits(imagehash.phash(small).hash).tobytes())
    with path.open("rb") as stream:
        return Photo(pixels, width, height, hashlib.file_digest(stream, "sha256").digest(), looks)


def _counts(classes: tuple[str, ...], known: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, dict[str, int]]:
    """Returns split → class → number of photos."""
    return class_counts(classes, {part: labels[photos["number"]] for part, photos in known.items()})


# ---- the checks


def problems(
    classes: tuple[str, ...],
    names: list[str],
    known: dict[str, np.ndarray],
    labels: np.ndarray,
    broken: dict[str, str],
    size: int,
    *,
    cropped: bool = False,
) -> list[Problem]:
    """Returns what a person should know before training on these photos; nothing if all is well.

    Args:
        classes: Names of the classes.
        names: Paths of all of the source's photos.
        known: Split → (N,) SEEN, without the photos that cannot be read.
        labels: Class index of each of the source's photos.
        broken: Path → reason for each photo that cannot be read.
        size: Width and height in pixels to which photos are resized, or what their shorter side is resized to.
        cropped: Whether the middle is cut out then.
    """
    repeated = _repeated(known)
    return [
        *_broken(broken),
        *class_problems(_counts(classes, known, labels), "photos"),
        *_two_labels(names, known, labels, repeated),
        *_twice(names, known, repeated),
        *_sizes(names, known, size, cropped=cropped),
    ]


def _repeated(known: dict[str, np.ndarray]) -> set[bytes]:
    """Returns the hashes that several photos have; there are few, so the dictionaries made of them stay small."""
    hashes, counts = np.unique(np.concatenate([photos["sha256"] for photos in known.values()]), return_counts=True)
    return set(hashes[counts > 1].tolist())


def _broken(broken: dict[str, str]) -> Iterator[Problem]:
    if broken:
        files = [f"{file}: {reason}" for file, reason in broken.items()]
        yield Problem("left out", f"{len(broken)} {'file' if len(broken) == 1 else 'files'} cannot be read", files)


def _two_labels(
    names: list[str], known: dict[str, np.ndarray], labels: np.ndarray, repeated: set[bytes]
) -> Iterator[Problem]:
    """Finds photos that are in two classes, in any splits."""
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
    """Yields the number and hash of each photo whose hash is one of the repeated ones."""
    for row in photos:
        if (sha256 := bytes(row["sha256"])) in repeated:
            yield int(row["number"]), sha256


def _photos(files: list[str]) -> str:
    return "1 photo is" if len(files) == 1 else f"{len(files):,} photos are"


def _twice(names: list[str], known: dict[str, np.ndarray], repeated: set[bytes]) -> Iterator[Problem]:
    """Finds photos that are, exactly or almost, in train and in another split."""
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


def _sizes(names: list[str], known: dict[str, np.ndarray], size: int, *, cropped: bool) -> Iterator[Problem]:
    """Finds photos that resizing enlarges or distorts, or that lose much by a crop."""

    def chosen(which: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> list[str]:
        """Returns the photos for which `which`, of their shorter and longer sides, is True."""
        return [
            f"{names[row['number']]}: {row['width']}×{row['height']}"
            for photos in known.values()
            for row in photos[which(*np.sort([photos["width"], photos["height"]], axis=0))]
        ]

    if tiny := chosen(lambda shorter, longer: shorter < size):
        yield Problem("tiny", f"{len(tiny)} photos are smaller than {size}×{size} and were enlarged", tiny)
    if extreme := chosen(lambda shorter, longer: longer > EXTREME * shorter):
        done = "lost most of their longer side" if cropped else "were distorted"
        yield Problem("extreme", f"{len(extreme)} photos are far from square and {done}", extreme)
