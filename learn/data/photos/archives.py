"""Copies a user's photos (a folder, a zip or tar of one, a table of files and labels) into a folder of known layout.

    gathered = gather(Path("pets.zip"), Path("data/raw/pets"))

Nothing in an archive or a table is trusted: a path that leads out of its folder, a link, or an archive that unpacks to
far more than its own size is refused before anything is kept.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from learn.data.photos.decode import SUFFIXES, find_photos, unwritable
from learn.errors import DataError, printable

if not hasattr(tarfile, "data_filter"):  # before Python 3.11.4
    from backports import tarfile  # type: ignore[no-redef]

MOST_BYTES = 100 * 2**30  # largest unpacked size of an archive, in bytes
MOST_RATIO = 100  # largest unpacked size divided by packed size; photos are compressed already, so theirs is near 1
SMALL = 64 * 2**20  # bytes; an archive that unpacks to less is accepted with any ratio
FEW = 10_000  # an archive may have this many members of any size
LEAST_BYTES = 64  # smallest mean size of an unpacked member, if there are more than FEW: no photo is smaller
MOST_MEMBERS = 5_000_000  # largest number of members in an archive
MOST_HEADER = 2**20  # largest size of a tar member's name and attributes, in bytes
PARTS = ("train", "test")
COLUMNS = ("file", "label", "part")


@dataclass(frozen=True)
class PhotoCollection:
    """What `gather` found; a class whose folder has no photos is listed too."""

    classes: tuple[str, ...]
    train: int  # number of photos for training
    test: int  # number of photos for testing; 0 if there is no test part
    ignored: int  # number of files whose suffix is not that of a photo


def gather(path: Path, into: Path) -> PhotoCollection:
    """Copies photos into a folder as CLASS/PHOTO, or as train/CLASS/PHOTO and test/CLASS/PHOTO.

    Args:
        path: A folder, a zip or tar archive, or a CSV table with the columns file, label and, optionally, part.
        into: The folder to copy into; it is created if it does not exist.

    Raises:
        DataError: The path is none of these, its photos are not in two classes or more, or something in it is unsafe.
    """
    try:
        return _gather(path, into)
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR):
            raise
        raise DataError(
            f"{path} has a name that cannot be a file's here: {error.strerror}: {error.filename}"
        ) from error


def _gather(path: Path, into: Path) -> PhotoCollection:
    if path.is_dir():
        return _gather_folder(path, into)
    if not path.is_file():
        raise DataError(f"{path} is not there; it must be a folder, a zip or tar archive, or a CSV table")
    if path.suffix.lower() == ".csv":
        return _gather_table(path, into)
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".unpacked-") as folder:
        unpack(path, Path(folder))
        return _gather_folder(Path(folder), into, named=str(path))


def tree_digest(folder: Path) -> str:
    """Returns the sha256 of what `sha256sum` prints for all files below the folder, sorted by their paths."""
    digest = hashlib.sha256()
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    for name in files:
        with (folder / name).open("rb") as stream:
            digest.update(
                f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {name}\n".encode(errors="surrogateescape")
            )
    return digest.hexdigest()


# ---- folders and tables


def _gather_folder(folder: Path, into: Path, named: str | None = None) -> PhotoCollection:
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
    for name in classes:
        if problem := unwritable(name):
            raise DataError(f"{named}: the folder {name!r}, a class, {problem}; rename it")
    if len(classes) < 2:
        raise DataError(
            f"{named} has {len(classes) or 'no'} sub-folder{'s' if not classes else ''} of photos; it must have one a "
            "class, two or more (or train/ and test/ with these below), or be a CSV table with the columns file,label"
        )
    counts, ignored = [], 0
    for root in roots:
        photos = {name: find_photos(root / name) for name in classes}
        found = [photo for name in classes for photo in photos[name]]
        for photo in found:
            if problem := unwritable(photo.relative_to(folder).as_posix()):
                raise DataError(
                    f"{named}: the name of the photo {str(photo.relative_to(folder))!r} {problem}; rename it"
                )
        _copy(((photo, into / photo.relative_to(folder)) for photo in found), root)
        counts.append({name: len(photos[name]) for name in classes})
        ignored += sum(len(files) for _, _, files in os.walk(root)) - len(found)
    return _checked(counts, ignored, named, "the folder test/")


def _unwrap(folder: Path) -> tuple[Path, list[str]]:
    """Descends through folders that contain only one other folder, which archives often have.

    Returns:
        The folder that holds the classes (or train/ and test/), and the names of its sub-folders.
    """
    names = _folders(folder)
    while len(names) == 1 and names[0] not in PARTS and _folders(folder / names[0]) and not find_shallow(folder):
        folder = folder / names[0]
        names = _folders(folder)
    return folder, names


def find_shallow(folder: Path) -> bool:
    """Returns whether the folder itself, not a sub-folder, has photos."""
    return any(p.suffix.lower() in SUFFIXES for p in folder.iterdir() if p.is_file())


def _folders(folder: Path) -> list[str]:
    hidden = (".", "__MACOSX")
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(hidden))


def _gather_table(table: Path, into: Path) -> PhotoCollection:
    """Copies the photos listed in a CSV table with the columns file, label and, optionally, part (train or test).

    The paths in the column file are relative to the table's folder.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            if not {"file", "label"} <= set(columns) <= set(COLUMNS):
                raise DataError(
                    f"{table} has the columns {printable(', '.join(columns))[:200] or '(none)'}; "
                    "its first line must be file,label or file,label,part"
                )
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read: {error}; it must be a table in CSV, saved as UTF-8") from error
    official = "part" in columns
    copies: list[tuple[Path, Path]] = []
    counts: list[Counter[str]] = [Counter() for _ in PARTS[: 1 + official]]
    for line, row in rows:
        where = f"{table}, line {line}"
        file, label, part = (row.get(column) or "" for column in COLUMNS)
        problem = _leaves(file) or unwritable(file) or (None if (table.parent / file).is_file() else "is not there")
        if problem:
            raise DataError(f"{where}: the file {file!r} {problem}; files stand relative to the table's folder")
        if not file.lower().endswith(SUFFIXES):
            raise DataError(f"{where}: the file {file!r} is no photo; it must end in one of {', '.join(SUFFIXES)}")
        if not label or label.startswith(".") or "/" in label or "\\" in label:
            raise DataError(f"{where}: the label {label!r} cannot be a folder; it must be a word or a few")
        if problem := unwritable(label):
            raise DataError(f"{where}: the label {label!r} {problem}; write it without")
        if official and part not in PARTS:
            raise DataError(f"{where}: the part is {part!r}; it must be train or test")
        counts[PARTS.index(part or "train")][label] += 1
        copies.append((table.parent / file, into / part / label / file))
    _copy(copies, table.parent)
    return _checked([dict(count) for count in counts], 0, str(table), "part test in the table")


def _checked(counts: list[dict[str, int]], ignored: int, named: str, test: str) -> PhotoCollection:
    """Checks that there are enough photos in enough classes, and sums them up.

    Args:
        counts: Class → number of photos, for the train part and, if there is one, the test part.
        ignored: Number of files that are no photos.
        named: The user's path, for messages.
        test: Where the test part comes from, for messages.

    Raises:
        DataError: There are fewer than two classes, or too few photos.
    """
    classes = tuple(sorted({name for count in counts for name in count}))
    sizes = [sum(count.values()) for count in counts]
    if len(classes) < 2 or not sizes[0]:
        raise DataError(
            f"{named} has {sizes[0]:,} photos for training in {len(classes)} classes; "
            f"it must have some, in two classes or more (photos end in {', '.join(SUFFIXES)})"
        )
    if len(sizes) == 2:
        if not sizes[1]:
            raise DataError(
                f"{named} has no photo for testing: put some there, or leave out {test}; "
                "then a test part is cut from the others"
            )
        if untrained := [name for name in classes if counts[1].get(name) and not counts[0].get(name)]:
            raise DataError(
                f"{named} has photos of {', '.join(untrained)} for testing and none for training; put some there too"
            )
    return PhotoCollection(classes, sizes[0], sum(sizes[1:]), ignored)


def _copy(pairs: Iterable[tuple[Path, Path]], root: Path) -> None:
    """Copies each photo to its target; raises DataError if one is a link that leads out of the root."""
    inside = root.resolve()
    for photo, target in pairs:
        if not photo.resolve().is_relative_to(inside):
            raise DataError(f"{photo} is a link that leads out of {root}; put the photo itself there")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, target)


# ---- archives


UNPACKING = (
    zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError, NotImplementedError, OverflowError, ValueError
)  # fmt: skip


def unpack(archive: Path, into: Path) -> None:
    """Unpacks a zip or tar archive (compressed or not) into a folder.

    Raises:
        DataError: The archive is damaged or one of its members is unsafe; members are checked before any is written.
    """
    try:
        with _opened(archive) as members:
            _refuse(archive, members)
        if zipfile.is_zipfile(archive):
            with _zip(archive) as packed:
                packed.extractall(into)
        else:
            with _tar(archive) as packed:
                packed.extractall(into, filter="data")
    except UNPACKING as error:
        why = "it is none, or is cut off" if isinstance(error, tarfile.ReadError) else error
        raise DataError(f"{archive} cannot be unpacked: {why}; it must be a whole zip or tar archive") from error


def _zip(archive: Path) -> zipfile.ZipFile:
    """Opens a zip archive, and reads the names as UTF-8 if they all can be: Unix's zip does not mark them as UTF-8."""
    try:
        return zipfile.ZipFile(archive, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        return zipfile.ZipFile(archive)


class _Header(tarfile.TarInfo):
    """The header of a tar's member, with a limit for long names and attributes.

    Those are stored in blocks of their own, which tarfile reads into memory as a whole.
    """

    def _proc_member(self, *arguments: Any, **options: Any) -> Any:
        """Goes on from a header (tarfile's hook for subclasses); a name or attributes over MOST_HEADER are refused."""
        if not self.isreg() and not self.isdir() and self.size > MOST_HEADER:
            raise DataError(f"an archive is refused: a member's name or attributes take {self.size:,} bytes")
        return super()._proc_member(*arguments, **options)  # type: ignore[misc]


def _tar(archive: Path) -> tarfile.TarFile:
    return tarfile.open(archive, tarinfo=_Header)


@dataclass(frozen=True)
class _Member:
    name: str
    size: int  # bytes, unpacked
    plain: bool  # a file or a folder, not a link or a device


@contextmanager
def _opened(archive: Path) -> Iterator[Iterable[_Member]]:
    """Yields the members as the archive's directory lists them; unpacking never reads more than the listed sizes."""
    if zipfile.is_zipfile(archive):
        with _zip(archive) as packed:
            # The upper half of the attributes is the Unix mode: 0o100000 is a file, 0o040000 a folder, 0 unknown.
            yield (
                _Member(m.orig_filename, m.file_size, m.external_attr >> 28 in (0, 0o10, 0o04))
                for m in packed.infolist()
            )
    else:
        with _tar(archive) as packed:
            yield (_Member(m.name, m.size, (m.isreg() and not m.issparse()) or m.isdir()) for m in packed)


def _refuse(archive: Path, members: Iterable[_Member]) -> None:
    packed, unpacked = archive.stat().st_size, 0
    for number, member in enumerate(members, start=1):
        problem = _leaves(member.name) or (None if member.plain else "is a link or a device")
        if unwritable(member.name) == "is not UTF-8":
            problem = "has a name that is not UTF-8; rename it"
        if problem:
            raise DataError(f"{archive} is refused: its member {member.name!r} {problem}")
        unpacked += member.size
        if unpacked > (most := max(SMALL, min(MOST_BYTES, MOST_RATIO * packed))):
            raise DataError(
                f"{archive} is refused: its {packed:,} bytes would become more than {most:,}, which is what an archive "
                "of photos may become; if you trust it, unpack it yourself and give the folder"
            )
        if number > min(MOST_MEMBERS, FEW + unpacked // LEAST_BYTES):
            raise DataError(
                f"{archive} is refused: more than {number - 1:,} members with {unpacked:,} bytes in all are no photos; "
                "if you trust it, unpack it yourself and give the folder"
            )


def _leaves(name: str) -> str | None:
    """Returns why a path does not lie below its folder, or None if it does."""
    for kind in (PurePosixPath(name), PureWindowsPath(name)):
        if kind.is_absolute() or kind.drive or kind.root:
            return "is an absolute path"
        if ".." in kind.parts:
            return "leads out of its folder"
    return None if name and "\0" not in name else "has no name"
