"""The table of all experiments, in the terminal and as Prefect's artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.reports.layout import Layout
from flows.reports.results import DASH, YARDSTICK, markdown, results, table, with_yardsticks
from tests.support.outputs import experiment, params_of, predicted, write_outputs


def test_it_says_what_was_decided_also_if_it_is_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("good", "bad")):
        splits = {part: predicted("digits", 180, 4 + 30 * seed, seed) for part in ("validation", "test")}
        write_outputs(name, "digits", splits, [1.0, 0.5])
    rows, _ = results(params_of({name: experiment("digits") for name in ("bad", "good")}))
    known = {"good": {"champion": True, "decision": "good is champion (version 1)"}, "bad": {}}
    verdict = {"verdict": "good stays champion (version 1)"}
    shown = markdown([row | known[row["experiment"]] | verdict for row in rows], "", {})
    decided = ["- digits: good is champion (version 1)", "- digits: good stays champion (version 1)"]
    assert [line for line in shown.splitlines() if line.startswith("- ")] == decided


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Two experiments of digits, whose validation part decides, and one of line, whose test part does."""
    monkeypatch.chdir(tmp_path)
    names = {"digits-cnn": "digits", "digits-mlp": "digits", "line-linear": "line"}
    for seed, (name, dataset) in enumerate(names.items()):
        parts = ("validation", "test") if dataset == "digits" else ("test",)
        write_outputs(name, dataset, {part: predicted(dataset, 180, 4 + seed, seed) for part in parts}, [1.0, 0.5])
    found, _ = results(params_of({name: experiment(dataset) for name, dataset in names.items()}))
    return [row | {"champion": row["experiment"] != "digits-mlp", "seconds": 12.5} for row in found]


def printed(layout: Layout, width: int) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(layout.view)
    return capture.get()


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (140, ()),
        (120, ("train seconds",)),
        (80, ("parameters", "epochs", "test loss", "train seconds", "diagnosis")),
        (60, ("dataset", "parameters", "epochs", "test loss", "metric", "train seconds", "diagnosis")),
        (40, ("dataset", "parameters", "epochs", "test loss", "metric", "test", "train seconds", "diagnosis")),
    ],
)
def test_a_narrow_terminal_shows_names_and_what_decides_and_says_what_it_leaves_out(
    rows: list[dict[str, Any]], width: int, left_out: tuple[str, ...]
) -> None:
    layout = table(rows, width)
    shown = printed(layout, width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    assert layout.left_out == left_out
    for value in ("97.78% ±2.4", "97.22% ±2.6", "0.04592 ±0.005"):
        assert value in shown, shown
    assert shown.count("champion") == 3, "the column's title, and two champions"
    names = [line.split()[0] for line in shown.partition("ranked")[0].splitlines() if "±" in line]
    assert all(name in ("digits", "line") or name.startswith(("digits-", "line-")) for name in names)


def test_what_is_left_out_is_named_with_where_to_see_it(rows: list[dict[str, Any]]) -> None:
    (said,) = table(rows, 80).remark("trackway compare --out report.html")
    assert said.startswith("left out, for the terminal is narrow: parameters, epochs, ")
    assert said.endswith("columns shows all, and so does trackway compare --out report.html")
    assert table(rows, 140).remark("") == []
    needed = table(rows, 80).needed
    assert table(rows, 40).needed == needed
    assert table(rows, needed).left_out == ()
    assert table(rows, needed - 1).left_out == ("train seconds",)
    assert max(map(len, printed(table(rows, needed), needed).splitlines())) <= needed


def test_yardsticks_stand_below_the_experiments_of_their_table() -> None:
    measured = {
        "test": {"accuracy": 0.5},
        "validation": {"accuracy": 0.4},
        "intervals": {"test": {"accuracy": [0.4, 0.6]}},
    }
    row = {"parameters": 9, "epochs": 2, "loss": 0.1, "accuracy": 0.9, "metric": "accuracy", "diagnosis": "settled"}
    of_table = {"dataset": "wine", "yardsticks": {"Dummy": measured}}
    rows = [row | of_table | {"experiment": "best"}, row | of_table | {"experiment": "other"}]
    rows.append(row | {"dataset": "digits", "experiment": "net", "yardsticks": {}})
    assert [each["experiment"] for each in with_yardsticks(rows)] == ["best", "other", "Dummy", "net"]
    (line,) = (line for line in markdown(rows, "", {}).splitlines() if "Dummy" in line)
    cells = ["wine", "Dummy", DASH, DASH, DASH, "accuracy", "40.00%", "50.00% ±10.0", DASH, YARDSTICK, ""]
    assert [cell.strip() for cell in line.strip("|").split("|")] == cells


def test_large_numbers_have_no_decimals() -> None:
    row = {"dataset": "houses", "parameters": 9, "epochs": 2, "loss": 16409.4, "mae": 16409.4, "metric": "mae"}
    measured = {"experiment": "net", "diagnosis": "settled", "intervals": {"test": {"mae": [12000.0, 20400.0]}}}
    (line,) = (line for line in markdown([row | measured], "", {}).splitlines() if "net" in line)
    assert "| 16,409 | mae | – | 16,409 ±4,000 |" in line
