"""What the transform stage does with photos: every file decoded once, on all cores, and looked at before any training.

The report of the checks goes to the terminal, into DVC with the transformed data (report.json), and into MLflow with
every run that is trained on them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from learn.datasets import Images, Photos
from learn.errors import DataError
from learn.params import Dataset
from learn.photos import Mode, PhotoError, open_photo, to_array
from tasks.stage import REPORT, raw_folder

NEAR = 4  # of 64 bits in which the perceptual hashes of near-duplicates may differ
IMBALANCE = 3.0  # times as many photos in the largest class as in the smallest
EXTREME = 4.0  # times as wide as high, or the other way round
SHOWN = 10  # files that are named in the terminal; the report has them all


@dataclass(frozen=True)
class Photo:
    """One decoded file; hashes of its bytes and of what it looks like."""

    pixels: np.ndarray  # (channels, size, size) uint8
    width: int
    height: int
    sha256: str
    looks: int  # 64 bits: similar pictures differ in few


@dataclass(frozen=True)
class Broken:
    reason: str


@dataclass(frozen=True)
class Problem:
    """One finding: a sentence for the terminal, and the files that it is about."""

    kind: str
    text: str
    files: list[str]


def transform_photos(name: str, dataset: Dataset, parts: dict[str, np.ndarray], into: Path) -> dict[str, int]:
    """Writes each part's inputs, targets and the report; returns the number of samples in each.

    parts: part → indices into the source's photos. Raises DataError, with all of them named, where files are broken
    and `transform.broken` is stop.
    """
    source = dataset.source
    assert isinstance(source, Photos)
    files = source.photos(raw_folder(name))
    names = [path.relative_to(raw_folder(name)).as_posix() for path, _ in files]
    settings = dataset.transform
    assert settings.resize
    assert settings.mode
    broken: dict[str, str] = {}
    known: dict[str, list[tuple[int, Photo]]] = {}  # part → the photos, without their pixels
    from tqdm import tqdm

    with tqdm(total=len(files), desc=f"transform {name}", unit="photo", disable=not sys.stderr.isatty()) as bar:
        for part, index in parts.items():
            file = into / f"{part}-inputs.npy"
            inputs = np.lib.format.open_memmap(file, "w+", np.uint8, (len(index), *dataset.shape))
            known[part] = []
            decoded = _decoded([files[i][0] for i in index], settings.mode, settings.resize)
            for number, found in zip(index, decoded, strict=True):
                bar.update()
                if isinstance(found, Broken):
                    broken[names[number]] = found.reason
                else:
                    inputs[len(known[part])] = found.pixels
                    known[part].append((int(number), found))
            inputs.flush()
            del inputs
            if len(known[part]) < len(index):
                _cut(file, len(known[part]))
            np.save(into / f"{part}-targets.npy", np.array([files[i][1] for i, _ in known[part]], np.int64))
    again = f" and run trackway add-images {name} {source.path} again" if isinstance(source, Images) else ""
    if broken and settings.broken == "stop":
        raise DataError(
            f"{len(broken)} of the {len(files):,} photos of {name} cannot be read:\n"
            + "\n".join(f"  {raw_folder(name) / file}: {reason}" for file, reason in broken.items())
            + f"\nMend or remove them where they come from{again}, "
            f"or set datasets.{name}.transform.broken to leave_out."
        )
    labels = {part: [files[i][1] for i, _ in photos] for part, photos in known.items()}
    found_problems = problems(source.classes, names, known, labels, broken, settings.resize)
    counts = {part: dict(Counter(source.classes[label] for label in labels[part])) for part in known}
    report = {
        "photos": {part: {c: counts[part].get(c, 0) for c in source.classes} for part in known},
        "problems": [vars(problem) for problem in found_problems],
    }
    (into / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for problem in found_problems:
        print(f"transform {name}: {problem.kind}: {problem.text}")
        for line in problem.files[:SHOWN]:
            print(f"  {line}")
        if len(problem.files) > SHOWN:
            print(f"  and {len(problem.files) - SHOWN} more, in {REPORT}")
    for part, kept in known.items():
        if not kept:
            raise DataError(f"the {part} part of {name} has no photo that can be read; it must have some")
    return {part: len(photos) for part, photos in known.items()}


def _decoded(paths: list[Path], mode: Mode, size: int) -> Iterator[Photo | Broken]:
    """In order, on all cores (Pillow's decoders let other threads run); a few photos ahead, so memory stays small."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), AHEAD):
            yield from pool.map(lambda path: _decode(path, mode, size), paths[start : start + AHEAD])


AHEAD = 512  # photos


def _decode(path: Path, mode: Mode, size: int) -> Photo | Broken:
    import imagehash
    from PIL import Image

    try:
        image = open_photo(path, mode)
    except PhotoError as error:
        return Broken(str(error))
    pixels = to_array(image, size)
    small = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    looks = int.from_bytes(np.packbits(imagehash.phash(small).hash).tobytes())
    return Photo(pixels, *image.size, hashlib.sha256(path.read_bytes()).hexdigest(), looks)


def _cut(file: Path, length: int) -> None:
    """Leaves the first rows of an array in a file, without reading it whole."""
    whole: np.ndarray = np.load(file, mmap_mode="r")
    partial = file.with_suffix(".partial")
    kept = np.lib.format.open_memmap(partial, "w+", whole.dtype, (length, *whole.shape[1:]))
    for start in range(0, length, AHEAD):
        kept[start : start + AHEAD] = whole[start : min(start + AHEAD, length)]
    kept.flush()
    del kept, whole
    partial.replace(file)


# ---- the checks


def problems(
    classes: tuple[str, ...],
    names: list[str],
    known: dict[str, list[tuple[int, Photo]]],
    labels: dict[str, list[int]],
    broken: dict[str, str],
    size: int,
) -> list[Problem]:
    """What a person should know before training on these photos; nothing, where all is well."""
    return [
        *_broken(broken),
        *_classes(classes, labels),
        *_two_labels(names, known, labels),
        *_twice(names, known),
        *_sizes(names, known, size),
    ]


def _broken(broken: dict[str, str]) -> Iterator[Problem]:
    if broken:
        files = [f"{file}: {reason}" for file, reason in broken.items()]
        yield Problem("left out", f"{len(broken)} files cannot be read", files)


def _classes(classes: tuple[str, ...], labels: dict[str, list[int]]) -> Iterator[Problem]:
    counts = {part: Counter(classes[label] for label in labels[part]) for part in labels}
    for name in classes:
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
            "the loss's weight, or more photos, can make up for it",
            [],
        )


def _two_labels(
    names: list[str], known: dict[str, list[tuple[int, Photo]]], labels: dict[str, list[int]]
) -> Iterator[Problem]:
    """The same photo in two classes, in whichever parts."""
    first: dict[str, tuple[str, int]] = {}
    found = []
    for part, photos in known.items():
        for (number, photo), label in zip(photos, labels[part], strict=True):
            other, other_label = first.setdefault(photo.sha256, (names[number], label))
            if label != other_label:
                found.append(f"{names[number]} = {other}")
    if found:
        yield Problem("two labels", f"{_photos(found)} also in another class", found)


def _photos(files: list[str]) -> str:
    return "1 photo is" if len(files) == 1 else f"{len(files):,} photos are"


def _twice(names: list[str], known: dict[str, list[tuple[int, Photo]]]) -> Iterator[Problem]:
    """The same photo in train and in another part."""
    train = known["train"]
    by_hash = {photo.sha256: number for number, photo in train}
    looks = np.array([photo.looks for _, photo in train], np.uint64)
    for part, photos in known.items():
        exact, near = [], []
        for number, photo in photos if part != "train" else []:
            if photo.sha256 in by_hash:
                exact.append(f"{names[number]} = {names[by_hash[photo.sha256]]}")
            elif len(looks) and (distance := np.bitwise_count(looks ^ np.uint64(photo.looks))).min() <= NEAR:
                near.append(f"{names[number]} ≈ {names[train[int(distance.argmin())][0]]}")
        if exact:
            yield Problem("duplicate", f"{_photos(exact)} in {part} and also in train", exact)
        if near:
            yield Problem("near-duplicate", f"{_photos(near)} in {part} and almost so in train", near)


def _sizes(names: list[str], known: dict[str, list[tuple[int, Photo]]], size: int) -> Iterator[Problem]:
    photos = [(names[number], photo) for part in known.values() for number, photo in part]
    sized = [(f"{name}: {photo.width}×{photo.height}", photo) for name, photo in photos]
    if tiny := [text for text, photo in sized if min(photo.width, photo.height) < size]:
        yield Problem("tiny", f"{len(tiny)} photos are smaller than {size}×{size} and were enlarged", tiny)
    extreme = [t for t, p in sized if max(p.width, p.height) > EXTREME * min(p.width, p.height)]
    if extreme:
        yield Problem("extreme", f"{len(extreme)} photos are far from square and were distorted", extreme)
