"""Reads what a user wants predicted, beside photos: rows of a table, or numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from learn.data.datasets.table import category_indices, header, numbers, read_cells
from learn.data.source import Columns
from learn.errors import DataError, did_you_mean, printable

SEPARATORS = (",", ";", "\t", "|", " ", ":")
IN_NAMES = (" ", ":")  # those that are likelier to be part of a column's name

Cells = list[dict[str, str]]  # of each row, column → cell


def is_there(path: Path) -> bool:
    """Returns whether a file or a folder is there; False for text that is too long for a name, such as many numbers."""
    with suppress(OSError):
        return path.exists()
    return False


def refuse_to_replace(option: str, file: Path, given: Iterable[Path]) -> None:
    """Raises DataError if a file that is to be written is one of those that were predicted.

    Args:
        option: The option that names it, such as `--out`.
        file: The file.
        given: What was predicted.
    """
    if is_there(file) and any(is_there(path) and file.samefile(path) for path in given):
        raise DataError(f"{option} is {file}, which holds what is predicted; give the name of another file")


def separator_of(path: Path, column: str) -> str | None:
    """Returns the character between the columns of a CSV file, by which it has a column; None for Parquet.

    Raises:
        DataError: No separator gives a column of that name.
    """
    with path.open("rb") as stream:
        if stream.read(4) == b"PAR1":
            return None
    found = {separator: header(path, separator) for separator in SEPARATORS}
    fitting = [separator for separator, names in found.items() if column in names]
    if not fitting:
        names = max(found.values(), key=len)
        if not names:
            raise DataError(f"{path} is empty; it must have a line with the columns' names, and a row for each sample")
        raise DataError(
            f"{path} has no column {column!r} in its first line; it has {printable(', '.join(names))[:500]}"
            f"{did_you_mean(column, names)}"
        )
    return max(
        fitting, key=lambda separator: (separator not in IN_NAMES and len(found[separator]) > 1, len(found[separator]))
    )


def table_rows(path: Path, columns: Columns) -> tuple[np.ndarray, Cells]:
    """Reads a table, CSV or Parquet, that has a model's columns, and perhaps others.

    Args:
        path: The file.
        columns: The model's columns.

    Returns:
        Inputs (N, columns) float32, as a table's `read` returns them, and all cells.

    Raises:
        DataError: It cannot be read, a column is missing, or a cell is not what the column has.
    """
    if not (is_there(path) and path.is_file()):
        raise DataError(f"{path} is not there; the model takes CSV or Parquet with the columns {_told(columns)}")
    cells = read_cells(path, separator_of(path, next(iter(columns))))
    for name in columns:
        if name not in cells:
            raise DataError(
                f"{path} has no column {name!r}; the model takes {_told(columns)}{did_you_mean(name, cells)}"
            )
    inputs = [
        numbers(cells[name]) if kind == "number" else category_indices(cells[name], kind)
        for name, kind in columns.items()
    ]
    rows = zip(*([each.texts[place] for place in each.index] for each in cells.values()), strict=True)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused by who predicts
        return np.stack(inputs, axis=1).astype(np.float32), [dict(zip(cells, row, strict=True)) for row in rows]


def _told(columns: Columns) -> str:
    return printable(", ".join(columns))[:500]


def number_rows(given: list[str], shape: tuple[int, ...]) -> tuple[np.ndarray, Cells]:
    """Reads numbers: those of one input from the command line, or a file with a line for each input.

    Args:
        given: The numbers, or the name of a file; numbers may have commas, semicolons or spaces between them.
        shape: Of one input.

    Returns:
        Inputs (N, *shape) float64, and the numbers as text.

    Raises:
        DataError: There are too many numbers or too few, or one is no finite number.
    """
    lines, where = [" ".join(given)], "the command line"
    if len(given) == 1 and is_there(file := Path(given[0])) and file.is_file():
        try:
            lines, where = file.read_text(encoding="utf-8-sig").splitlines(), str(file)
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is no text; write an input's numbers in each line") from error
    found = [(place, re.findall(r"[^\s,;]+", line)) for place, line in enumerate(lines, 1) if line.strip()]
    if len(found) > 1 and not any(_number(word) is not None for word in found[0][1]):
        del found[0]  # names of the columns
    size, rows = int(np.prod(shape)), []
    for place, words in found:
        values = [_number(word) for word in words]
        if len(values) != size or None in values:
            raise DataError(
                f"{where}, line {place:,}: {printable(' '.join(words))[:100]!r}; the model takes {size} finite "
                f"number{'s' * (size > 1)} for each input"
            )
        rows.append(values)
    if not rows:
        raise DataError(f"{where} has no input; the model takes {size} numbers for each")
    names = ["number"] if size == 1 else [f"number {place}" for place in range(1, size + 1)]
    return np.array(rows, float).reshape(-1, *shape), [dict(zip(names, words, strict=True)) for _, words in found]


def _number(word: str) -> float | None:
    """Returns a finite number, or None."""
    try:
        value = float(word)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
