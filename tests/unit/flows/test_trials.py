"""The trials of a sweep side by side, in the terminal and as Markdown."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.reports.sweeps import last_sweeps, markdown, trials
from learn.errors import ParamsError, SweepError
from tasks.sweep.storage import open_sweep
from tasks.sweep.study import Sweep
from tasks.sweep.trial import Outcome
from tests.support.outputs import experiment, params_of
from tests.unit.tasks.test_sweep import IDENTITY, outcome, run

PARAMS = params_of({"mlp": experiment("digits"), "cnn": experiment("digits")})


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """All six combinations; a learning rate of 0.9 diverges."""

    def measured(values: dict[str, Any]) -> Outcome:
        return replace(outcome(values), history="epoch,train/loss\n1,0.5\n2,0.4\n")

    monkeypatch.chdir(tmp_path)
    found = open_sweep(replace(IDENTITY, space={"lr": "[0.05, 0.1, 0.9]", "width": "[[8], [16]]"}))
    run(found, 6, measured)
    return found


def shown(sweep: Sweep, width: int) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(trials(sweep, width))
    return capture.get()


def test_all_trials_are_compared_best_first(sweep: Sweep) -> None:
    text = shown(sweep, 100)
    rows = re.findall(r"^ +\d +([\d.]+) +\[(\d+)\] +(\S+) +2 +(\w+)(?: +(best))? *$", text, re.MULTILINE)
    assert rows[:4] == [
        ("0.05", "8", "100.00%", "complete", "best"),
        ("0.05", "16", "100.00%", "complete", ""),
        ("0.1", "8", "95.00%", "complete", ""),
        ("0.1", "16", "95.00%", "complete", ""),
    ]
    assert [row[0:1] + row[2:] for row in rows[4:]] == [("0.9", "–", "diverged", "")] * 2
    assert "6 trials (2 diverged); validation accuracy decides (higher is better)" in text
    assert "| 0.05 | \\[8\\] | 100.00% | 2 | complete | best |" in markdown([sweep])


def test_a_narrow_terminal_shows_the_values_and_the_metric(sweep: Sweep) -> None:
    text = shown(sweep, 40)
    assert max(map(len, text.splitlines())) <= 40
    assert re.search(r"^ +\d +0\.05 +\[8\] +100\.00% +best *$", text, re.MULTILINE), text
    assert "left out, for the terminal is narrow: epochs, state; a terminal of 57 columns" in " ".join(text.split())


def test_only_keys_that_differ_have_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = open_sweep(IDENTITY)
    run(found, 1)
    text = shown(found, 100)
    assert "lr is the same in all; width is the same in all" in " ".join(text.split())
    assert not re.search(r"^ *trial +lr", text, re.MULTILINE)


def test_sweeps_are_found_by_the_names_of_their_experiments(sweep: Sweep) -> None:
    for names in ([], ["mlp"]):
        assert [each.identity for each in last_sweeps(PARAMS, names)] == [sweep.identity]
    with pytest.raises(SweepError, match="there is no sweep of cnn yet; next: trackway sweep cnn -S "):
        last_sweeps(PARAMS, ["mlp", "cnn"])
    with pytest.raises(SweepError, match="there is no sweep of any experiment yet; next: trackway sweep cnn -S "):
        last_sweeps(params_of({"cnn": experiment("digits")}), [])
    with pytest.raises(ParamsError, match="mpl"):
        last_sweeps(PARAMS, ["mpl"])
