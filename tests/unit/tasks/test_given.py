"""What is given to `trackway predict` beside photos: rows of tables, and numbers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from learn.data.source import Columns
from learn.errors import DataError
from tasks.given import number_rows, refuse_to_replace, separator_of, table_rows
from tasks.predict import Prediction, as_csv, plot

COLUMNS: Columns = {"area": "number", "zone": ("north", "south")}


def written(folder: Path, text: str) -> Path:
    (file := folder / "given.csv").write_text(text, encoding="utf-8")
    return file


def test_rows_of_a_table_have_its_columns_in_the_model_s_order(tmp_path: Path) -> None:
    file = written(tmp_path, "id;zone;area\n7;south;30.5\n8;;NA\n")
    inputs, cells = table_rows(file, COLUMNS)
    np.testing.assert_array_equal(inputs, np.array([[30.5, 1], [np.nan, np.nan]], np.float32))
    assert cells == [{"id": "7", "zone": "south", "area": "30.5"}, {"id": "8", "zone": "", "area": "NA"}]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("area,zonee\n1,north\n", "has no column 'zone'; the model takes area, zone; did you mean zonee?"),
        ("area,zone\n1,east\n", "row 1, column 'zone': 'east' is none of its categories"),
        ("area,zone\n1,north\nmany,south\n", "row 2, column 'area': 'many' is no number"),
        ("a,b\n1,2\n", "has no column 'area' in its first line; it has a, b"),
        ("", "is empty; it must have a line with the columns' names"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(DataError, match=re.escape(why)):
        table_rows(written(tmp_path, text), COLUMNS)
    with pytest.raises(
        DataError, match=r"there.csv is not there; the model takes CSV or Parquet with the columns area,"
    ):
        table_rows(tmp_path / "there.csv", COLUMNS)


@pytest.mark.parametrize(
    ("first_line", "separator"),
    [
        ("price of land,price", ","),
        ("from: to;price", ";"),
        ("area price", " "),
        ("price", ","),
        ("a b c\tprice", "\t"),
    ],
)
def test_a_separator_is_no_part_of_a_name(tmp_path: Path, first_line: str, separator: str) -> None:
    assert separator_of(written(tmp_path, first_line + "\n"), "price") == separator


def test_numbers_come_from_the_command_line_or_from_lines_of_a_file(tmp_path: Path) -> None:
    inputs, cells = number_rows(["-0.5,", "1e2"], (2,))
    assert inputs.tolist() == [[-0.5, 100]]
    assert cells == [{"number 1": "-0.5", "number 2": "1e2"}]
    file = written(tmp_path, "x;y\n1;2\n\n3;4\n")
    assert number_rows([str(file)], (2,))[0].tolist() == [[1, 2], [3, 4]]
    assert number_rows(["3"], (1,))[1] == [{"number": "3"}]
    many = " ".join(["0.123456"] * 40)  # longer than a file's name can be
    assert number_rows([many], (40,))[0].shape == (1, 40)
    with pytest.raises(DataError, match="is not there; the model takes CSV or Parquet"):
        table_rows(tmp_path / many, COLUMNS)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["1"], "the command line, line 1: '1'; the model takes 2 finite numbers for each input"),
        (["1", "nan"], "the command line, line 1: '1 nan'; the model takes 2 finite numbers for each input"),
        (["photo.jpg"], "the command line, line 1: 'photo.jpg'; the model takes 2 finite numbers for each input"),
    ],
)
def test_other_numbers_are_refused(given: list[str], why: str) -> None:
    with pytest.raises(DataError, match=re.escape(why)):
        number_rows(given, (2,))


def test_a_file_without_numbers_is_refused(tmp_path: Path) -> None:
    for text, why in (("x,y\n", "line 1: 'x y'"), ("1,2\n3\n", "line 2: '3'"), ("", "has no input; the model takes 2")):
        with pytest.raises(DataError, match=why):
            number_rows([str(written(tmp_path, text))], (2,))
    (tmp_path / "given.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is no text; write an input's numbers in each line"):
        number_rows([str(tmp_path / "given.csv")], (2,))


def test_what_is_predicted_is_not_replaced(tmp_path: Path) -> None:
    file = written(tmp_path, "area,zone\n1,north\n")
    refuse_to_replace("--out", tmp_path / "out.csv", [file, tmp_path / ("1 " * 200)])
    with pytest.raises(
        DataError, match=r"--out is \S+given.csv, which holds what is predicted; give the name of another"
    ):
        refuse_to_replace("--out", tmp_path / "." / "given.csv", [tmp_path / "absent.csv", file])


def test_predictions_stand_beside_what_was_given() -> None:
    rows = [
        Prediction("row 1", {"id": "7"}, [("no", 0.75), ("a, b", 0.25)]),
        Prediction("row 2", {"id": "8"}, [("a, b", 0.5), ("no", 0.5)]),
    ]
    expected = ['id,predicted,"probability of a, b",probability of no', "7,no,0.25,0.75", '8,"a, b",0.5,0.5']
    assert as_csv(rows).decode().splitlines() == expected
    assert as_csv([Prediction("row 1", {"id": "7"}, [], 2.5)]).decode().splitlines() == ["id,predicted", "7,2.5"]
    with pytest.raises(DataError, match="has a column 'predicted' already; rename it"):
        as_csv([Prediction("row 1", {"predicted": "7"}, [], 2.5)])
    with pytest.raises(DataError, match="--plot shows photos, and no photo was predicted"):
        plot(rows)
