"""A user's own table as arrays."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from learn.data.datasets.table import Table
from learn.errors import DataError

ROWS = """\
area,zone,rooms,part,price
30.5,north,2,train,100
,"south, old",3,test,200.5
50,north,NA,train,1e3
60,?,4,train,400
"""
TABLE = Table(
    "table",
    path="houses.csv",
    sha256="",
    separator=",",
    target="price",
    class_names=(),
    columns={"area": "number", "zone": ("north", "south, old")},
    split_column=None,
    train=4,
    test=0,
)


def read(folder: Path, text: str, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    table = replace(TABLE, **changes)
    (folder / table.file).write_text(text, encoding="utf-8")
    inputs, targets = table.read(folder)
    table.check("houses", inputs, targets)
    return inputs, targets


def test_numbers_stay_categories_become_indices_and_what_is_missing_nan(tmp_path: Path) -> None:
    inputs, targets = read(tmp_path, ROWS)
    assert inputs.dtype == targets.dtype == np.float32
    np.testing.assert_array_equal(inputs, np.array([[30.5, 0], [np.nan, 1], [50, 0], [60, np.nan]], np.float32))
    assert targets.tolist() == [[100], [200.5], [1000], [400]]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_any_separator_gives_the_same(tmp_path: Path, separator: str) -> None:
    text = "\n".join(
        separator.join(cells.replace("~", ",") for cells in line.split(","))
        for line in ROWS.replace('"south, old"', '"south~ old"').splitlines()
    )
    expected = read(tmp_path, ROWS)
    for found, array in zip(read(tmp_path, text, separator=separator), expected, strict=True):
        np.testing.assert_array_equal(found, array)


def test_parquet_gives_the_same(tmp_path: Path) -> None:
    columns = {
        "area": [30.5, float("nan"), 50.0, 60.0],
        "zone": ["north", "south, old", "north", None],
        "rooms": [2, 3, None, 4],
        "price": [100, 200.5, 1000, 400],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "table.parquet")
    expected = read(tmp_path, ROWS)
    for found, array in zip(replace(TABLE, separator=None).read(tmp_path), expected, strict=True):
        np.testing.assert_array_equal(found, array)


def test_the_test_part_comes_last(tmp_path: Path) -> None:
    _, targets = read(tmp_path, ROWS, split_column="part", train=3, test=1)
    assert targets.ravel().tolist() == [100, 1000, 400, 200.5]


def test_classes_are_indices(tmp_path: Path) -> None:
    _, targets = read(tmp_path, ROWS.replace("1e3", "100"), class_names=("100", "200.5", "400"))
    assert targets.dtype == np.int64
    assert targets.tolist() == [0, 1, 0, 2]


def change(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("30.5,", '"30,5",'), "row 1, column 'area': '30,5' has a decimal comma; write numbers with a point"),
        (change("30.5,", "-inf,"), "row 1, column 'area': '-inf' is infinite; a number must be finite"),
        (change("30.5,", "about 30,"), "row 1, column 'area': 'about 30' is no number"),
        (change("60,?", "60,west"), "row 4, column 'zone': 'west' is none of its categories in params.yaml"),
        (change(",200.5", ","), "row 2 has no target (column 'price'); leave such rows out"),
        (change("30.5,", "1e39,"), "1 of the inputs are NaN or infinite, the first in sample 0"),
        (change("area,", "size,"), "has no column 'area'; it has size, zone, rooms, part, price"),
        (change("rooms,", "zone,"), "the column 'zone' is not the only column of that name; give each column a name"),
        (change("area,", ","), "column 1 has no name (of pandas: its index)"),
        (change("50,north,", "50,"), "Expected 5 columns, got 4: 50,NA,train,1e3; each row must have as many cells"),
        (lambda text: text.splitlines()[0] + "\n", "table.csv has no row"),
        (lambda _: "", "table.csv is empty"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, edit: Callable[[str], str], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read(tmp_path, edit(ROWS))


def test_a_part_is_train_or_test(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 2, column 'part': the part is 'val'; it must be train or test"):
        read(tmp_path, ROWS.replace("3,test", "3,val"), split_column="part", train=3, test=1)


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes("größe,price\n1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8"):
        TABLE.read(tmp_path)
    (tmp_path / "table.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        replace(TABLE, separator=None).read(tmp_path)
    parquet.write_table(pyarrow.table({"area": [[1, 2]], "price": [1]}), tmp_path / "table.parquet")
    with pytest.raises(DataError, match="the column 'area' holds list<"):
        replace(TABLE, separator=None, columns={"area": "number"}).read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": {}}, "columns is empty"),
        ({"columns": {"price": "number"}}, "columns has 'price', which is the target"),
        ({"columns": {"zone": ("a", "a")}}, "it must be number, or different categories"),
        ({"class_names": ("one",)}, "two or more different names"),
        ({"separator": ", "}, "it must be one character, or null for Parquet"),
        ({"test": 3}, "test >= 1 with a split column or 0 without"),
    ],
)
def test_a_section_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(TABLE, **changes)
