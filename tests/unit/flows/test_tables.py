"""`trackway add-table`: what it finds out, and what it writes into params.yaml."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from flows.edits.columns import Described, describe
from flows.edits.tables import add_table
from learn.data.datasets.table import Table
from learn.errors import DataError, ParamsError
from tasks.given import separator_of
from tasks.params import load_params
from tests.support.project import ROOT

ROWS = "\n".join(
    [
        "id;area;zone;note;part;price",
        *(f"{i};{30 + i};{'old' if i % 3 else 'new'};note {i};{'test' if i % 4 else 'train'};{i}.5" for i in range(60)),
    ]
)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the params.yaml of this project."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return Path("params.yaml")


def added(
    params: Path, text: str, target: str = "price", split_column: str | None = None, kind: str | None = None
) -> str:
    Path("houses.csv").write_text(text, encoding="utf-8")
    return add_table("houses", Path("houses.csv"), params, target=target, split_column=split_column, kind=kind)


def source_of(params: Path) -> Table:
    source = load_params(params).datasets["houses"].source
    assert isinstance(source, Table)
    return source


def test_a_table_of_numbers_gets_a_section_and_an_experiment(params: Path) -> None:
    told = added(params, ROWS)
    assert told.startswith(
        "dataset houses and its first experiment houses-mlp are in params.yaml: 60 rows; columns: 2 "
    )
    assert "left out: the column 'note', which is text with 60 different values" in told
    source = source_of(params)
    assert source.separator == ";"
    assert source.columns == {"id": "number", "area": "number", "zone": ("new", "old"), "part": ("test", "train")}
    assert (source.classes, source.sizes) == ((), (60, 0))
    loaded = load_params(params)
    assert loaded.datasets["houses"].shape == (6,)
    model = loaded.experiments["houses-mlp"].model.arguments
    assert 25 < model["output_mean"] < 35
    assert 15 < model["output_scale"] < 20
    assert Path("data/raw/houses/table.csv").read_text(encoding="utf-8") == ROWS
    assert "# The control panel" in params.read_text(encoding="utf-8"), "comments stay"


def test_categories_need_to_be_one_hot(params: Path) -> None:
    added(params, ROWS)
    params.write_text(params.read_text(encoding="utf-8").replace("one_hot: true", "one_hot: false"), encoding="utf-8")
    with pytest.raises(
        ParamsError, match=r"transform.one_hot is false, but the column 'zone' has categories, and models"
    ):
        load_params(params)


def test_a_split_column_is_the_official_test_part(params: Path) -> None:
    assert "15 rows and 45 for testing" in added(params, ROWS, split_column="part")
    assert source_of(params).sizes == (15, 45)
    assert load_params(params).datasets["houses"].split.test == "official"


def test_text_is_classes_and_a_rare_one_changes_the_metric(params: Path) -> None:
    assert "2 classes" in added(params, ROWS, target="zone")
    loaded = load_params(params)
    assert loaded.datasets["houses"].split.stratify
    assert loaded.datasets["houses"].champion.metric == "accuracy"
    assert loaded.experiments["houses-mlp"].loss.name == "CrossEntropyLoss"
    rare = "\n".join(["a;zone", *(f"{i};{'new' if i % 10 else 'old'}" for i in range(60))])
    Path("rare.csv").write_text(rare, encoding="utf-8")
    add_table("rare", Path("rare.csv"), params, target="zone", split_column=None, kind=None)
    assert load_params(params).datasets["rare"].champion.metric == "f1_macro"


def test_again_it_is_a_new_version_with_the_columns_that_were_kept(params: Path) -> None:
    added(params, ROWS)
    assert added(params, ROWS) == "dataset houses has this table already; nothing was changed"
    params.write_text(params.read_text(encoding="utf-8").replace('        "id": number\n', ""), encoding="utf-8")
    told = added(params, ROWS.replace("new", "newest") + "\n99;99;old;note;train;9.5")
    assert told.startswith("dataset houses has a new version: 61 rows; columns: 1 of numbers, 2 of categories")
    assert "left out: the column 'id', which params.yaml does not have" in told
    assert source_of(params).columns == {"area": "number", "zone": ("newest", "old"), "part": ("test", "train")}
    with pytest.raises(ParamsError, match=r"datasets.houses.source.target is price, not area; choose another name"):
        added(params, ROWS, target="area")


def change(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("price", "prise"), "houses.csv has no column 'price' in its first line; it has id, area"),
        (change("0.5\n", "0,5\n"), "row 1, column 'price': '0,5' has a decimal comma"),
        (change(";7.5\n", ";\n"), "houses.csv: row 8 has no target (column 'price')"),
        (change(";40;", ";inf;"), "houses.csv: row 11, column 'area': 'inf' is infinite"),
        (lambda text: text.splitlines()[0], "houses.csv has no row"),
        (lambda _: "", "houses.csv is empty"),
        (lambda text: "\n".join(text.splitlines()[:4]), "houses.csv has 3 rows for training; it must have 10 or more"),
        (lambda text: re.sub(r";\d+\.5$", ";1", text, flags=re.M), "the target 'price' is '1' in all rows"),
        (lambda text: re.sub(r";\d+\.5$", r";\g<0>x", text, flags=re.M), "cannot be read as CSV"),
        (change("id;area;zone", "id;;zone"), "column 2 has no name"),
        (
            lambda text: text.replace("note 1;", "note \x1b[31m;").replace("zone", "z\x1b"),
            "the column 'z\\x1b' has the control character \\x1b",
        ),
    ],
)
def test_a_mistake_changes_nothing(params: Path, edit: Callable[[str], str], message: str) -> None:
    before = params.read_text(encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(message)):
        added(params, edit(ROWS))
    assert params.read_text(encoding="utf-8") == before
    assert not Path("data/raw/houses").exists()
    assert not list(Path("data/raw").glob(".*"))


def test_a_name_or_file_that_cannot_be_is_refused(params: Path) -> None:
    for name, file, message in (
        ("my houses", "houses.csv", "the name 'my houses' must be a letter, then letters, digits, - and _"),
        ("digits", "houses.csv", "datasets.digits is digits, not a table that was added; choose another name"),
        ("houses", "none.csv", "none.csv is not there; it must be a CSV or Parquet file"),
    ):
        Path("houses.csv").write_text(ROWS, encoding="utf-8")
        with pytest.raises((DataError, ParamsError), match=message):
            add_table(name, Path(file), params, target="price", split_column=None, kind=None)


# ---- what columns are


def described(folder: Path, columns: dict[str, list[object]], kind: str | None = None) -> Described:
    parquet.write_table(pyarrow.table(columns), file := folder / "table.parquet")
    assert separator_of(file, "y") is None
    return describe(file, file, None, "y", None, kind, None)


def test_whole_numbers_that_repeat_are_classes_unless_it_is_said(tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {"x": list(range(60)), "y": [i % 12 for i in range(60)]}
    assert described(tmp_path, columns).classes == tuple(map(str, range(12)))
    assert described(tmp_path, columns, "numbers").classes == ()
    assert described(tmp_path, columns | {"y": [i / 2 for i in range(60)]}).classes == ()
    with pytest.raises(DataError, match=r"the target 'y' has 60 different values in 60 rows, .* classes must repeat"):
        described(tmp_path, columns | {"y": [f"name {i}" for i in range(60)]})


def test_columns_are_numbers_or_categories_or_left_out(tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {
        "whole": list(range(60)),
        "flag": [i % 2 == 0 for i in range(60)],
        "size": [["1", "2", "3+"][i % 3] for i in range(60)],
        "empty": [""] * 60,
        "name": [f"name {i}" for i in range(60)],
        "y": ["a", "b"] * 30,
    }
    found = described(tmp_path, columns)
    assert found.columns == {"whole": "number", "flag": ("false", "true"), "size": ("1", "2", "3+")}
    assert found.left_out == {"empty": "which has no value", "name": "which is text with 60 different values"}


def test_one_text_among_many_numbers_is_a_mistake(tmp_path: Path) -> None:
    cells: list[object] = [*map(str, np.arange(99)), "unknown"]
    with pytest.raises(
        DataError, match="row 100, column 'x': 'unknown' is no number; mend it, or leave the cell empty"
    ):
        described(tmp_path, {"x": cells, "y": ["a", "b"] * 50})
