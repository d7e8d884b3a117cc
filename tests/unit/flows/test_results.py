"""The table of all experiments, as Prefect's artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.reports.results import DASH, YARDSTICK, markdown, results, with_yardsticks
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


def test_yardsticks_stand_below_the_experiments_of_their_table() -> None:
    measured = {
        "test": {"accuracy": 0.5},
        "validation": {"accuracy": 0.4},
        "intervals": {"test": {"accuracy": [0.4, 0.6]}},
    }
    row = {"parameters": 9, "epochs": 2, "loss": 0.1, "accuracy": 0.9, "metric": "accuracy", "diagnosis": "settled"}
    table = {"dataset": "wine", "yardsticks": {"Dummy": measured}}
    rows = [row | table | {"experiment": "best"}, row | table | {"experiment": "other"}]
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
