"""May an experiment become champion? Every way in which it may, and may not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from learn.comparison.gate import Candidate, Champion, judge, why_never_champion

CANDIDATE = Candidate(
    "new", "validation", "accuracy", {"validation/accuracy": 0.9, "test/accuracy": 0.8}, "abc", {"validation": "v1"}
)
CHAMPION = Champion(
    "digits", "3", "old", {"validation/accuracy": 0.85}, {"validation": "v1"}, is_candidate=False, is_broken=False
)
EXPERIMENTS = ["old", "new"]


def test_the_first_candidate_is_champion() -> None:
    assert judge(CANDIDATE, None, EXPERIMENTS).promote
    assert CANDIDATE.result == "validation accuracy 0.9000, test accuracy 0.8000"


@pytest.mark.parametrize(("value", "promote"), [(0.85, True), (0.9, False), (0.95, False), (math.nan, True)])
def test_only_a_better_value_replaces_it(value: float, promote: bool) -> None:
    decision = judge(CANDIDATE, replace(CHAMPION, metrics={"validation/accuracy": value}), EXPERIMENTS)
    assert decision.promote == promote
    stays = f"old (version 3, validation accuracy {value:.4f}) stays champion; new has 0.9000"
    assert decision.text == ("" if promote else stays)


def test_of_an_error_a_lower_value_is_better() -> None:
    candidate = replace(CANDIDATE, metric="loss", metrics={"validation/loss": 0.2})
    assert judge(candidate, replace(CHAMPION, metrics={"validation/loss": 0.3}), EXPERIMENTS).promote
    assert not judge(candidate, replace(CHAMPION, metrics={"validation/loss": 0.1}), EXPERIMENTS).promote


def test_a_value_that_was_measured_on_other_data_does_not_count() -> None:
    better = replace(CHAMPION, metrics={"validation/accuracy": 0.99})
    assert judge(CANDIDATE, replace(better, data={"validation": "v0"}), EXPERIMENTS).promote
    assert judge(CANDIDATE, replace(better, data={"test": "t1"}), EXPERIMENTS).promote
    assert not judge(CANDIDATE, better, EXPERIMENTS).promote


def test_a_champion_that_is_broken_or_gone_is_replaced_by_a_worse_one() -> None:
    better = replace(CHAMPION, metrics={"validation/accuracy": 0.99})
    broken = judge(CANDIDATE, replace(better, is_broken=True, is_candidate=True), EXPERIMENTS)
    assert broken.promote
    assert broken.text == "; version 3 was, and cannot be loaded"
    gone = judge(CANDIDATE, better, ["new"])
    assert gone.promote
    assert gone.text == "; old (version 3) was, and is no experiment of digits any more"


def test_the_champion_stays_if_the_candidate_is_it_or_a_user_registered_it() -> None:
    same = judge(CANDIDATE, replace(CHAMPION, is_candidate=True), EXPERIMENTS)
    assert not same.promote
    assert same.text == "new stays champion (version 3)"
    by_hand = judge(CANDIDATE, replace(CHAMPION, experiment=None), EXPERIMENTS)
    assert not by_hand.promote
    assert "version 3 stays champion: it was registered by hand and cannot be compared" in by_hand.text


def test_some_experiments_can_never_be_champion() -> None:
    constant = {"kind": "constant", "summary": "always steak"}
    fine = {"kind": "settled", "summary": "settled"}
    assert why_never_champion(constant, "test", "accuracy", 0.9) == "it says always steak"
    for value in (math.nan, None):
        assert why_never_champion(fine, "test", "accuracy", value) == "its test accuracy is not a number"
    assert why_never_champion(fine, "test", "accuracy", 0.0) is None
