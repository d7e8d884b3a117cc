"""The short part of `make torture` (python -m tests.torture), with stages that are forks of a warm process."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.support.project import Project
from tests.torture.__main__ import lost
from tests.torture.common import Ground, Scenario
from tests.torture.kills import after_a_row

pytestmark = pytest.mark.usefixtures("warm_socket", "own_prefect")

BLOBS = ["train@blobs-linear", "evaluate@blobs-linear", "register@blobs"]


@pytest.mark.parametrize(
    ("row", "victim", "longest"),
    [("a logged model", "everybody", 1.5), ("a model version", "the registration", 0.05)],
)
def test_a_kill_while_a_model_is_logged_or_registered_loses_nothing(
    by_flow: Project, tmp_path: Path, row: str, victim: str, longest: float
) -> None:
    def trial(ground: Ground, random: Random) -> None:
        work = ground.forgotten("blobs", BLOBS, "dvc", "repro", BLOBS[-1])
        after_a_row(ground, work, random, row, [victim], longest)

    assert lost(Ground(tmp_path, by_flow), Scenario(row, 1, trial), Random(0)) == ""
