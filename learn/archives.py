"""A user's photos (a folder, a zip or tar of one, a table of files and labels) → one folder of known layout.

    gathered = gather(Path("pets.zip"), Path("data/raw/pets"))

Nothing in an archive or a table is trusted: what would leave its folder, is a link, or unpacks to far more than it
weighs is refused before anything is kept.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from learn.errors import DataError
from learn.photos import SUFFIXES, find_photos

MOST_BYTES = 100 * 2**30  # that an archive may unpack to
MOST_RATIO = 100  # of the unpacked size to the packed: photos are packed already
SMALL = 64 * 2**20  # bytes; what unpacks to less is harmless, whatever its ratio
PARTS = ("train", "test")
COLUMNS = ("file", "label", "part")


@dataclass(frozen=True)
class Gathered:
    """What was found; the classes are those of the folders, also where one is empty."""

    classes: tuple[str, ...]
    train: int  # photos
    test: int  # 0 where there is no test part
    ignored: int  # files that have no photo's suffix


def gather(path: Path, into: Path) -> Gathered:
    """Copies the photos into `into`: CLASS/PHOTO, or train/CLASS/PHOTO and test/CLASS/PHOTO. Raises DataError."""
    if path.is_dir():
        return _gather_folder(path, into)
    if not path.is_file():
        raise DataError(f"{path} is not there; it must be a folder, a zip or tar archive, or a CSV table")
    if path.suffix.lower() == ".csv":
        return _gather_table(path, into)
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".unpacked-") as folder:
        unpack(path, Path(folder))
        return _gather_folder(Path(folder), into, named=str(path))


def tree_digest(folder: Path) -> str:
    """The sha256 of what `sha256sum` prints for all files below the folder, sorted by their paths."""
    digest = hashlib.sha256()
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    for name in files:
        with (folder / name).open("rb") as stream:
            digest.update(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {name}\n".encode())
    return digest.hexdigest()


# ---- folders and tables


def _gather_folder(folder: Path, into: Path, named: str | None = None) -> Gathered:
    named = named or str(folder)
    folder, names = _unwrap(folder)
    if "train" in names:
        if others := [name for name in names if name not in PARTS]:
            raise DataError(
                f"{named} has {', '.join(others)}/ beside train/: move those photos into train/ or test/; "
                "split.validation in params.yaml parts a validation set from train"
            )
        if "test" not in names:
            folder, names = folder / "train", _folders(folder / "train")
    roots = [folder / part for part in PARTS] if "train" in names else [folder]
    classes = tuple(sorted({name for root in roots for name in _folders(root)}))
    if len(classes) < 2:
        raise DataError(
            f"{named} has {len(classes) or 'no'} sub-folder{'s' if not classes else ''} of photos; it must have one a "
            "class, two or more (or train/ and test/ with these below), or be a CSV table with the columns file,label"
        )
    counts, ignored = [], 0
    for root in roots:
        photos = [photo for name in classes for photo in find_photos(root / name)]
        _copy(((photo, into / photo.relative_to(folder)) for photo in photos), root)
        counts.append(len(photos))
        ignored += sum(len(files) for _, _, files in os.walk(root)) - len(photos)
    return _checked(Gathered(classes, counts[0], sum(counts[1:]), ignored), named)


def _unwrap(folder: Path) -> tuple[Path, list[str]]:
    """Past folders that hold nothing but one folder, as archives often do."""
    names = _folders(folder)
    while len(names) == 1 and names[0] not in PARTS and _folders(folder / names[0]) and not find_shallow(folder):
        folder = folder / names[0]
        names = _folders(folder)
    return folder, names


def find_shallow(folder: Path) -> bool:
    """Whether photos lie in the folder itself."""
    return any(p.suffix.lower() in SUFFIXES for p in folder.iterdir() if p.is_file())


def _folders(folder: Path) -> list[str]:
    hidden = (".", "__MACOSX")
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(hidden))


def _gather_table(table: Path, into: Path) -> Gathered:
    """A CSV with a header: file (relative to the table), label and, where wanted, part (train or test)."""
    with table.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or []
        if not {"file", "label"} <= set(columns) <= set(COLUMNS):
            raise DataError(
                f"{table} has the columns {', '.join(columns) or '(none)'}; its first line must be file,label "
                "or file,label,part"
            )
        rows = [(reader.line_num, row) for row in reader]
    official = "part" in columns
    copies, counts = [], dict.fromkeys(PARTS, 0)
    for line, row in rows:
        where = f"{table}, line {line}"
        file, label, part = (row.get(column) or "" for column in COLUMNS)
        problem = _leaves(file) or (None if (table.parent / file).is_file() else "is not there")
        if problem:
            raise DataError(f"{where}: the file {file!r} {problem}; files stand relative to the table's folder")
        if not file.lower().endswith(SUFFIXES):
            raise DataError(f"{where}: the file {file!r} is no photo; it must end in one of {', '.join(SUFFIXES)}")
        if not label or label.startswith(".") or "/" in label or "\\" in label:
            raise DataError(f"{where}: the label {label!r} cannot be a folder; it must be a word or a few")
        if official and part not in PARTS:
            raise DataError(f"{where}: the part is {part!r}; it must be train or test")
        counts[part or "train"] += 1
        copies.append((table.parent / file, into / part / label / file))
    _copy(copies, table.parent)
    classes = tuple(sorted({row["label"] for _, row in rows}))
    return _checked(Gathered(classes, counts["train"], counts["test"], 0), str(table))


def _checked(found: Gathered, named: str) -> Gathered:
    if len(found.classes) < 2 or not found.train:
        raise DataError(
            f"{named} has {found.train:,} photos for training in {len(found.classes)} classes; "
            f"it must have some, in two classes or more (photos end in {', '.join(SUFFIXES)})"
        )
    return found


def _copy(pairs: Iterable[tuple[Path, Path]], root: Path) -> None:
    """Raises DataError for a link that leads out of the root."""
    inside = root.resolve()
    for photo, target in pairs:
        if not photo.resolve().is_relative_to(inside):
            raise DataError(f"{photo} is a link that leads out of {root}; put the photo itself there")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, target)


# ---- archives


def unpack(archive: Path, into: Path) -> None:
    """A zip or tar (also compressed) into a folder; refused whole, with nothing left, where a member is unsafe."""
    try:
        with _opened(archive) as members:
            _refuse(archive, members)
        if zipfile.is_zipfile(archive):
            with _zip(archive) as packed:
                packed.extractall(into)
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(into, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        why = "it is none, or is cut off" if isinstance(error, tarfile.ReadError) else error
        raise DataError(f"{archive} cannot be unpacked: {why}; it must be a whole zip or tar archive") from error


def _zip(archive: Path) -> zipfile.ZipFile:
    """Names that are not marked as UTF-8 are so all the same where they can be, as Unix's zip writes them."""
    try:
        return zipfile.ZipFile(archive, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        return zipfile.ZipFile(archive)


@dataclass(frozen=True)
class _Member:
    name: str
    size: int  # bytes, unpacked
    plain: bool  # a file or a folder


@contextmanager
def _opened(archive: Path) -> Iterator[Iterable[_Member]]:
    """The members as the archive's directory tells them; what is read later is never more than it says."""
    if zipfile.is_zipfile(archive):
        with _zip(archive) as packed:
            # the upper half of the attributes is the Unix mode: 0o100000 a file, 0o040000 a folder, 0 unknown
            yield (
                _Member(m.orig_filename, m.file_size, m.external_attr >> 28 in (0, 0o10, 0o04))
                for m in packed.infolist()
            )
    else:
        with tarfile.open(archive) as packed:
            yield (_Member(m.name, m.size, (m.isreg() and not m.issparse()) or m.isdir()) for m in packed)


def _refuse(archive: Path, members: Iterable[_Member]) -> None:
    packed, unpacked = archive.stat().st_size, 0
    for member in members:
        problem = _leaves(member.name) or (None if member.plain else "is a link or a device")
        if problem:
            raise DataError(f"{archive} is refused: its member {member.name!r} {problem}")
        unpacked += member.size
        if unpacked > (most := max(SMALL, min(MOST_BYTES, MOST_RATIO * packed))):
            raise DataError(
                f"{archive} is refused: its {packed:,} bytes would become more than {most:,}, which is what an archive "
                "of photos may become; if you trust it, unpack it yourself and give the folder"
            )


def _leaves(name: str) -> str | None:
    """Why a path is not one below its folder, or None."""
    for kind in (PurePosixPath(name), PureWindowsPath(name)):
        if kind.is_absolute() or kind.drive or kind.root:
            return "is an absolute path"
        if ".." in kind.parts:
            return "leads out of its folder"
    return None if name and "\0" not in name else "has no name"
