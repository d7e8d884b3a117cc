"""Finds out what a table's columns are: numbers or categories, classes or numbers to predict, and the separator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from learn.data.datasets.table import (
    MISSING,
    Cells,
    numbers,
    part_indices,
    read_cells,
    require_all,
    why_no_number,
)
from learn.data.photos.decode import unwritable
from learn.data.source import Columns
from learn.errors import DataError, did_you_mean

MOST_CATEGORIES = 50  # different texts in a column, above which they are no categories
MOST_CLASSES = 20  # different whole numbers in the target, up to which they are classes
MOSTLY = 0.9  # share of different texts that are numbers, from which the others are mistakes


@dataclass(frozen=True)
class Described:
    """What a table has."""

    columns: Columns
    classes: tuple[str, ...]  # empty if the target is a number
    train: int  # number of rows outside the official test part
    test: int
    left_out: dict[str, str]  # column → why it is no input


def describe(
    file: Path,
    path: Path,
    separator: str | None,
    target: str,
    split_column: str | None,
    kind: str | None,
    kept: Columns | None,
) -> Described:
    """Reads a table and finds out what its columns are.

    Args:
        file: A copy of the table.
        path: The table, for messages.
        separator: The character between the columns of CSV; None for Parquet.
        target: The column that is to be predicted.
        split_column: The column that says `train` or `test`; None if there is none.
        kind: What the target is, `classes` or `numbers`; None to find out.
        kept: The columns of an earlier version, which alone are inputs; None for all that can be.

    Raises:
        DataError: A cell is not what it should be, or no column can be an input.
    """
    try:
        cells = read_cells(file, separator)
        for asked in (target, split_column, *(kept or ())):
            if asked is not None and asked not in cells:
                raise DataError(
                    f"there is no column {asked!r}; there are {', '.join(cells)}{did_you_mean(asked, cells)}"
                )
        require_all(cells[target], "target")
        parts = part_indices(cells[split_column]) if split_column else None
        rows = len(cells[target].index)
        test = int(parts.sum()) if parts is not None else 0
        classes = _classes(cells[target], kind)
        if parts is not None and not 0 < test < rows:
            raise DataError(f"the column {split_column!r} says the same for all rows; it must say train or test")
        if parts is not None and classes:
            trained = {cells[target].texts[place] for place in cells[target].index[parts == 0]}
            if untrained := [name for name in classes if name not in trained]:
                raise DataError(f"the class {untrained[0]!r} has rows for testing and none for training")
        columns, left_out = _inputs([each for name, each in cells.items() if name not in (target, split_column)], kept)
    except DataError as error:
        raise DataError(
            str(error).replace(str(file), str(path)) if str(file) in str(error) else f"{path}: {error}"
        ) from error
    return Described(columns, classes, rows - test, test, left_out)


def _inputs(cells: list[Cells], kept: Columns | None) -> tuple[Columns, dict[str, str]]:
    columns: Columns = {}
    left_out = {}
    for each in cells:
        if kept is not None and each.name not in kept:
            left_out[each.name] = "which params.yaml does not have"
        elif isinstance(found := _column_kind(each), str) and found != "number":
            left_out[each.name] = found
        else:
            columns[each.name] = found  # type: ignore[assignment]
    if not columns:
        raise DataError("no column but the target can be an input; one or more must hold numbers or categories")
    return columns, left_out


def _column_kind(cells: Cells) -> tuple[str, ...] | str:
    """Returns the categories of a column, `number`, or why it can be neither; raises DataError for mistakes in it."""
    present = [text for text in cells.texts if text not in MISSING]
    wrong = [text for text in present if why_no_number(text)]
    if not present:
        return "which has no value"
    if not wrong:
        return "number"
    _refuse_commas(cells, wrong)
    if len(present) <= min(MOST_CATEGORIES, max(2, len(cells.index) // 2)):
        return _checked(cells.name, present)
    if len(wrong) <= (1 - MOSTLY) * len(present):
        numbers(cells)  # raises an error about the first of them
    return f"which is text with {len(present):,} different values"


def _refuse_commas(cells: Cells, wrong: list[str]) -> None:
    """Raises DataError if all texts that are no numbers have decimal commas or are infinite."""
    if wrong and not any("is no number" in why_no_number(text) for text in wrong):
        numbers(cells)


def _classes(target: Cells, kind: str | None) -> tuple[str, ...]:
    """Returns the classes of the target; () if it is a number. Raises DataError if it is neither."""
    wrong = [text for text in target.texts if why_no_number(text)]
    _refuse_commas(target, wrong)
    whole = not wrong and all(float(text).is_integer() for text in target.texts)
    few = len(target.texts) <= len(target.index) // 2
    if len(target.texts) < 2:
        raise DataError(
            f"the target {target.name!r} is {target.texts[0]!r} in all rows; it must have two values or more"
        )
    if kind == "numbers" or (kind is None and not wrong and not (whole and few and len(target.texts) <= MOST_CLASSES)):
        numbers(target)
        return ()
    if not few:
        raise DataError(
            f"the target {target.name!r} has {len(target.texts):,} different values in {len(target.index):,} rows, "
            f"such as {target.texts[0][:80]!r}; classes must repeat"
        )
    return _checked(target.name, target.texts)


def _checked(column: str, texts: list[str]) -> tuple[str, ...]:
    """Returns categories in order, numbers by their size; raises DataError if one cannot be written in params.yaml."""
    for text in texts:
        if problem := unwritable(text):
            raise DataError(f"the column {column!r} has the value {text!r}, which {problem}; write it without")
    if any(why_no_number(text) for text in texts):
        return tuple(sorted(texts))
    return tuple(sorted(texts, key=float))
