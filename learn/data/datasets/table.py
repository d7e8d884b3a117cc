"""A user's own table of numbers and categories, as CSV with any separator or as Parquet."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from learn.data.photos.decode import unwritable
from learn.data.source import Columns, Source
from learn.errors import DataError, printable

if TYPE_CHECKING:
    import pyarrow

MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "?")  # cells that have no value
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
DECIMAL_COMMA = re.compile(r"[+-]?\d+(\.\d{3})*,\d+", re.ASCII)
PARTS = ("train", "test")  # what a column of parts may say


@dataclass(frozen=True)
class Table(Source):
    """A user's own table, as `trackway add-table` found it; the section holds its version."""

    path: str  # where the table came from
    sha256: str  # of the file
    separator: str | None  # between the columns of CSV; None for Parquet
    target: str  # the column that is to be predicted
    class_names: tuple[str, ...]  # the values of the target if they are classes; empty if they are numbers
    columns: dict[str, Literal["number"] | tuple[str, ...]]  # input → `number`, or its categories; others are not read
    split_column: str | None  # the column that says `train` or `test`; None if there is none
    train: int  # number of rows outside the official test part
    test: int  # number of rows in the official test part; 0 if there is none

    def __post_init__(self) -> None:
        if len(self.class_names) == 1 or len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"class_names is {list(self.class_names)}; it must be two or more different names, or []")
        if not self.columns:
            raise ValueError("columns is empty; it must name one column or more")
        for special in (self.target, self.split_column):
            if special in self.columns:
                raise ValueError(f"columns has {special!r}, which is the target or the split column and no input")
        for name, kind in self.columns.items():
            if kind != "number" and (not kind or len(set(kind)) < len(kind)):
                raise ValueError(f"columns has {name!r}: {list(kind)}; it must be number, or different categories")
        if self.separator is not None and len(self.separator) != 1:
            raise ValueError(f"separator is {self.separator!r}; it must be one character, or null for Parquet")
        if self.train < 1 or self.test < 0 or bool(self.test) != bool(self.split_column):
            raise ValueError(
                f"train is {self.train}, test {self.test}, split_column {self.split_column!r}; it must be train >= 1, "
                "and test >= 1 with a split column or 0 without"
            )

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers of rows that `trackway add-table` counted."""
        return self.train, self.test

    @property
    def shape(self) -> tuple[int, ...]:
        """One number for each column; the transform stage makes several of a category."""
        return (len(self.columns),)

    @property
    def classes(self) -> tuple[str, ...]:
        """The values of the target, if they are classes."""
        return self.class_names

    @property
    def column_kinds(self) -> Columns:
        """The columns of params.yaml."""
        return self.columns

    @property
    def file(self) -> str:
        """Name of the raw file."""
        return raw_name(self.separator)

    def read(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Reads the table.

        Returns:
            Inputs (N, columns) float32: numbers, and indices of categories; NaN where a cell has no value. Targets (N,)
            int64 or (N, 1) float32. The rows of the official test part come last.

        Raises:
            DataError: A cell is not what params.yaml says.
        """
        others = [self.target, *([self.split_column] if self.split_column else [])]
        cells = read_cells(folder / self.file, self.separator, [*self.columns, *others])
        rows = np.arange(len(cells[self.target].index))
        if self.split_column:
            rows = np.argsort(part_indices(cells[self.split_column]), kind="stable")
        inputs = [
            numbers(cells[name]) if kind == "number" else category_indices(cells[name], kind)
            for name, kind in self.columns.items()
        ]
        with np.errstate(over="ignore"):  # `check` finds what is too large for float32
            return np.stack(inputs, axis=1).astype(np.float32)[rows], self._targets(cells[self.target])[rows]

    def _targets(self, cells: Cells) -> np.ndarray:
        values = category_indices(cells, self.class_names) if self.class_names else numbers(cells)
        require_all(cells, "target")
        return values.astype(np.int64) if self.class_names else values.astype(np.float32)[:, None]


@dataclass(frozen=True)
class Cells:
    """The cells of one column as text, each different text once."""

    name: str
    texts: list[str]  # without spaces around them
    index: np.ndarray  # (N,) int32: the text of each row

    def row(self, text: int) -> int:
        """Returns the first row with a text, counted from 1 without the header."""
        return int(np.argmax(self.index == text)) + 1


def raw_name(separator: str | None) -> str:
    """Returns the name of the file in `data/raw/D/`."""
    return "table.parquet" if separator is None else "table.csv"


def read_cells(file: Path, separator: str | None, columns: Iterable[str] | None = None) -> dict[str, Cells]:
    """Reads columns of a table as text.

    Args:
        file: The table.
        separator: The character between the columns of CSV; None for Parquet.
        columns: Names of the columns; None for all.

    Raises:
        DataError: The file is no such table, has no row, or lacks a column.
    """
    import pyarrow

    try:
        table = _parquet(file) if separator is None else _csv(file, separator)
    except pyarrow.ArrowException as error:
        kind = "Parquet" if separator is None else f"CSV with the separator {separator!r}"
        why = printable(" ".join(str(error).split()))[:300]
        raise DataError(
            f"{file} cannot be read as {kind}: {why}; each row must have as many cells as there are columns"
        ) from error
    if not table.num_rows:
        raise DataError(f"{file} has no row; it must have a line with the columns' names, and a row for each sample")
    wanted = table.column_names if columns is None else list(columns)
    if lacking := [name for name in wanted if name not in table.column_names]:
        raise DataError(f"{file} has no column {lacking[0]!r}; it has {printable(', '.join(table.column_names))[:500]}")
    return {name: _as_cells(file, name, table[name]) for name in wanted}


def header(file: Path, separator: str) -> list[str]:
    """Returns the names in the first line of a CSV file; raises DataError if it cannot be read."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            return [name.strip() for name in next(csv.reader(stream, delimiter=separator), [])]
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 ({error.reason}); save it as CSV in UTF-8, or as Parquet") from error
    except csv.Error as error:
        raise DataError(f"{file} cannot be read as CSV: {error}") from error


def _csv(file: Path, separator: str) -> pyarrow.Table:
    import pyarrow
    from pyarrow import csv as arrow

    names = header(file, separator)
    _check_names(file, names)
    with file.open("rb") as stream:
        if not (stream.readline() and stream.readline()):  # pyarrow reports the missing rows in other words
            return pyarrow.table({name: [] for name in names})
    return arrow.read_csv(
        file,
        read_options=arrow.ReadOptions(use_threads=False, column_names=names, skip_rows=1),
        parse_options=arrow.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=arrow.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.large_string())),
    )


def _parquet(file: Path) -> pyarrow.Table:
    from pyarrow import parquet

    table = parquet.read_table(file, use_threads=False)
    _check_names(file, table.column_names)
    return table


def _check_names(file: Path, names: list[str]) -> None:
    if not names:
        raise DataError(f"{file} is empty; it must have a line with the columns' names, and a row for each sample")
    for place, name in enumerate(names, start=1):
        problem = unwritable(name) or ("is not the only column of that name" if names.count(name) > 1 else None)
        if not name or problem:
            what = f"the column {name!r} {problem}" if name else f"column {place} has no name (of pandas: its index)"
            raise DataError(f"{file}: {what}; give each column a name of its own, or save the table without it")


def _as_cells(file: Path, name: str, column: pyarrow.ChunkedArray) -> Cells:
    import pyarrow
    from pyarrow import compute

    try:
        text = column.cast(pyarrow.large_string())
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{file}: the column {name!r} holds {column.type}; it must hold numbers or text: save the table without it"
        ) from error
    found = compute.utf8_trim_whitespace(text).fill_null("").combine_chunks().dictionary_encode()
    return Cells(name, found.dictionary.to_pylist(), found.indices.to_numpy())


# ---- cells → numbers


def numbers(cells: Cells) -> np.ndarray:
    """Returns a column of numbers, (N,) float64, NaN where a cell has no value; raises DataError for other text."""
    for place, text in enumerate(cells.texts):
        if why := why_no_number(text):
            raise DataError(f"row {cells.row(place):,}, column {cells.name!r}: {text[:80]!r} {why}")
    return np.array([math.nan if text in MISSING else float(text) for text in cells.texts])[cells.index]


def why_no_number(text: str) -> str:
    """Returns why a cell is no number; "" if it is one, or has no value."""
    if text in MISSING or NUMBER.fullmatch(text):
        return ""
    if DECIMAL_COMMA.fullmatch(text):
        return "has a decimal comma; write numbers with a point, and nothing between thousands"
    if text.lstrip("+-").lower() in ("inf", "infinity"):
        return "is infinite; a number must be finite: leave the row out, or the cell empty"
    return "is no number; mend it, or leave the cell empty"


def category_indices(cells: Cells, categories: tuple[str, ...]) -> np.ndarray:
    """Returns the index of each cell's category, (N,) float64, NaN where a cell has no value.

    Raises:
        DataError: A cell is none of the categories.
    """
    known = {text: float(place) for place, text in enumerate(categories)} | dict.fromkeys(MISSING, math.nan)
    for place, text in enumerate(cells.texts):
        if text not in known:
            raise DataError(
                f"row {cells.row(place):,}, column {cells.name!r}: {text[:80]!r} is none of its categories in "
                "params.yaml; add it there, or leave such rows out of the table"
            )
    return np.array([known[text] for text in cells.texts])[cells.index]


def part_indices(cells: Cells) -> np.ndarray:
    """Returns (N,) int64: 0 for a row of the train part, 1 for one of the test part; raises DataError for others."""
    for place, text in enumerate(cells.texts):
        if text not in PARTS:
            raise DataError(
                f"row {cells.row(place):,}, column {cells.name!r}: the part is {text[:80]!r}; it must be train or test "
                "(split.validation in params.yaml parts a validation set from train)"
            )
    return np.array([PARTS.index(text) for text in cells.texts])[cells.index]


def require_all(cells: Cells, what: str) -> None:
    """Raises DataError if a cell of the column has no value."""
    for place, text in enumerate(cells.texts):
        if text in MISSING:
            raise DataError(f"row {cells.row(place):,} has no {what} (column {cells.name!r}); leave such rows out")
