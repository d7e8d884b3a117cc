"""A user's photos (a folder, a zip or tar of one, a table of files and labels) → one folder of known layout.

    gathered = gather(Path("pets.zip"), Path("data/raw/pets"))

Nothing in an archive or a table is trusted: what would leave its folder, is a link, or unpacks to far more than it
weighs is refused before anything is kept.
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
from typing import Self

from learn.data.photos.decode import SUFFIXES, find_photos, unwritable
from learn.errors import DataError, printable

if not hasattr(tarfile, "data_filter"):  # before Python 3.11.4
    from backports import tarfile  # type: ignore[no-redef]

MOST_BYTES = 100 * 2**30  # that an archive may unpack to
MOST_RATIO = 100  # of the unpacked size to the packed: photos are packed already
SMALL = 64 * 2**20  # bytes; what unpacks to less is harmless, whatever its ratio
FEW = 10_000  # members; so many are harmless, however small
LEAST_BYTES = 64  # of a member beyond these, unpacked, on average: no photo is smaller
MOST_MEMBERS = 5_000_000
MOST_HEADER = 2**20  # bytes of a tar member's name and attributes
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
    try:
        return _gather(path, into)
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR):
            raise
        raise DataError(
            f"{path} has a name that cannot be a file's here: {error.strerror}: {error.filename}"
        ) from error


def _gather(path: Path, into: Path) -> Gathered:
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
    """The sha256 of what `sha256sum` prints for all files below the folder, sorted by their paths."""
    digest = hashlib.sha256()
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    for name in files:
        with (folder / name).open("rb") as stream:
            digest.update(
                f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {name}\n".encode(errors="surrogateescape")
            )
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


def _checked(counts: list[dict[str, int]], ignored: int, named: str, test: str) -> Gathered:
    """counts: class → photos, of the train and, where there is one, of the test part, which a message calls `test`."""
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
    return Gathered(classes, sizes[0], sum(sizes[1:]), ignored)


def _copy(pairs: Iterable[tuple[Path, Path]], root: Path) -> None:
    """Raises DataError for a link that leads out of the root."""
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
    """A zip or tar (also compressed) into a folder; refused whole, with nothing left, where a member is unsafe."""
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
    """Names that are not marked as UTF-8 are so all the same where they can be, as Unix's zip writes them."""
    try:
        return zipfile.ZipFile(archive, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        return zipfile.ZipFile(archive)


class _Header(tarfile.TarInfo):
    """Of a tar's member; its name and attributes may stand in blocks of their own, which tarfile reads into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if not found.isreg() and not found.isdir() and found.size > MOST_HEADER:
            raise DataError(f"an archive is refused: a member's name or attributes take {found.size:,} bytes")
        return found


def _tar(archive: Path) -> tarfile.TarFile:
    return tarfile.open(archive, tarinfo=_Header)


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
    """Why a path is not one below its folder, or None."""
    for kind in (PurePosixPath(name), PureWindowsPath(name)):
        if kind.is_absolute() or kind.drive or kind.root:
            return "is an absolute path"
        if ".." in kind.parts:
            return "leads out of its folder"
    return None if name and "\0" not in name else "has no name"
