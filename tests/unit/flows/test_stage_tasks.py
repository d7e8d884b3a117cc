"""How a stage's task ends, whether it is tried again, and which stages can start."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.objects import State

from flows.pipeline import ready, without_work
from flows.stage_tasks import TASKS, failed_by_network, final_state, may_succeed_again
from tasks.workspace.environment import OUTCOME
from tasks.workspace.outcome import Outcome, tell, told

NEEDS = {"download": [], "split": ["download"], "train@a": ["split"], "train@b": ["split"]}


def test_a_stage_that_ran_is_completed_with_what_it_made() -> None:
    state = final_state("train@a", 0, Outcome("train a: epoch 5/5"), [])
    assert (state.name, state.message) == ("Completed", "train a: epoch 5/5")


def test_a_stage_that_left_nothing_did_not_run() -> None:
    assert final_state("train@a", 0, None, []).name == "Cached"


def test_a_failure_says_why() -> None:
    lines = ["epoch 1", "error: lr is fast", "ERROR: failed to reproduce 'train@a': failed to run"]
    assert final_state("train@a", 255, None, lines).message == "train@a failed with exit code 255: error: lr is fast"
    lines = ["split a: 40", "ERROR: failed to reproduce 'split@a': [Errno 28] No space left on device: 'data'"]
    assert final_state("split@a", 255, None, lines).message == f"split@a failed with exit code 255: {lines[-1]}"
    failed = "train@a failed with exit code 255: "
    assert final_state("train@a", 255, None, ["last words"]).message == f"{failed}last words"
    assert final_state("train@a", 255, None, []).message == f"{failed}dvc repro train@a says why"


@pytest.mark.parametrize(
    ("error", "name", "download_again", "train_again"),
    [
        ("NetworkError", "NetworkError", True, True),
        ("DeviceError", "DeviceError", False, False),
        ("NotFiniteError", "NotFiniteError", False, False),
        ("DataError", "Failed", False, True),
        ("", "Failed", False, True),
    ],
)
def test_the_kind_of_error_decides_on_another_try(
    error: str, name: str, download_again: bool, train_again: bool
) -> None:
    state: State[Any] = final_state("train@a", 1, Outcome("error: no", error=error), [])
    run: Any = None
    assert state.name == name
    assert failed_by_network(TASKS["download"], run, state) == download_again
    assert may_succeed_again(TASKS["train"], run, state) == train_again


def test_who_is_tried_again() -> None:
    def tries(state: str) -> dict[str, int]:
        """Kind of stage → the number of its further tries, if each ends in this state."""
        found = {}
        for kind, task in TASKS.items():
            again: Any = task.retry_condition_fn
            runs = (run for run in range(1, 10) if run > (task.retries or 0) or not again(task, ran(run), named(state)))
            found[kind] = next(runs) - 1
        return {kind: number for kind, number in found.items() if number}

    def ran(times: int) -> Any:
        return SimpleNamespace(run_count=times)

    def named(state: str) -> Any:
        return SimpleNamespace(name=state)

    assert tries("NetworkError") == {"download": 3, "train": 1}
    assert tries("Failed") == {"train": 1}
    assert tries("ClusterLost") == {}
    assert tries("NodeLost") == dict.fromkeys(TASKS, 3)


def test_stages_start_once_their_needs_are_done_and_a_worker_is_free() -> None:
    def can_start(done: set[str], free: int) -> list[str]:
        return ready([name for name in NEEDS if name not in done], done, NEEDS.__getitem__, free)

    assert can_start(set(), 2) == ["download"]
    assert can_start({"download"}, 2) == ["split"]
    assert can_start({"download", "split"}, 2) == ["train@a", "train@b"]
    assert can_start({"download", "split"}, 1) == ["train@a"]
    assert can_start({"download", "split"}, 0) == []


def test_a_stage_has_no_work_if_it_and_all_that_it_needs_have_none() -> None:
    def idle(*work: str) -> set[str]:
        return without_work([*NEEDS], NEEDS.__getitem__, lambda name: name in work)

    assert idle() == set(NEEDS)
    assert idle("train@a") == {"download", "split", "train@b"}
    assert idle("download") == set()


def test_an_outcome_comes_back_as_it_was_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(tmp_path / "outcome.json") is None
    tell(Outcome("nobody asked"))
    monkeypatch.setenv(OUTCOME, str(tmp_path / "outcome.json"))
    for left in (
        Outcome("register digits: a is champion", champion="a is champion"),
        Outcome("register digits: a stays champion", refused="a stays champion; judged for the first time: b"),
    ):
        tell(left)
        assert told(tmp_path / "outcome.json") == left
    assert [file.name for file in tmp_path.iterdir()] == ["outcome.json"]
