"""The table of all experiments, as Prefect's artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.reports.results import markdown, results
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
