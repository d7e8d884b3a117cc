"""May an experiment become champion? Every way in which it may, and may not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from learn.comparison.gate import Candidate, Champion, Rule, judge
from learn.comparison.limits import Costs, Limits, why_never_champion
from learn.evaluation.intervals import wilson
from learn.evaluation.metrics import METRICS, Metric
from learn.evaluation.predictions import Predictions, as_file, read

CANDIDATE = Candidate(
    "new", "validation", "accuracy", {"validation/accuracy": 0.9, "test/accuracy": 0.8}, "abc", {"validation": "v1"}
)
CHAMPION = Champion("digits", "3", "old", {"validation/accuracy": 0.85}, {"validation": "v1"})
EXPERIMENTS = ["old", "new"]
BETTER, SEPARABLE, ANY = Rule("better"), Rule(), Rule("any")
SAMPLES = 200


def predicted(right: int, first: int = 0) -> Predictions:
    """Predictions of which so many are right, from this sample on."""
    targets = np.zeros(SAMPLES, dtype=np.int64)
    predictions = np.ones(SAMPLES, dtype=np.int64)
    predictions[first : first + right] = 0
    return Predictions(targets, predictions, "v1", 2)


def candidate(right: int, first: int = 0, name: str = "new") -> Candidate:
    """One with so many right predictions."""
    metrics = {"validation/accuracy": right / SAMPLES, "test/accuracy": 0.8}
    return replace(CANDIDATE, experiment=name, metrics=metrics, predicted=predicted(right, first))


def champion(right: int) -> Champion:
    return replace(CHAMPION, metrics={"validation/accuracy": right / SAMPLES}, predicted=predicted(right))


def test_the_first_candidate_is_champion() -> None:
    assert judge([CANDIDATE], None, EXPERIMENTS, SEPARABLE).champion is CANDIDATE
    assert CANDIDATE.result == "validation accuracy 0.9000, test accuracy 0.8000"


@pytest.mark.parametrize("rule", [BETTER, SEPARABLE])
@pytest.mark.parametrize(("value", "promote"), [(0.85, True), (0.9, False), (0.95, False), (math.nan, True)])
def test_only_a_better_value_replaces_it(value: float, promote: bool, rule: Rule) -> None:
    """Without predictions, as of a version of before, there is no test."""
    decision = judge([CANDIDATE], replace(CHAMPION, metrics={"validation/accuracy": value}), EXPERIMENTS, rule)
    assert (decision.champion is CANDIDATE) == promote
    if not promote:
        assert decision.text == f"old (version 3, validation accuracy {value:.4f}) stays champion; new has 0.9000"


def test_a_clearly_better_one_replaces_it_and_a_clearly_worse_one_does_not() -> None:
    better = judge([candidate(190)], champion(150), EXPERIMENTS, SEPARABLE)
    assert better.champion
    assert better.text == "; old has 0.7500 there (p = 1.8e-12)"
    assert better.facts == {"compared_with": "old (version 3, validation accuracy 0.7500)", "p": "1.82e-12"}
    worse = judge([candidate(150)], champion(190), EXPERIMENTS, SEPARABLE)
    assert (worse.champion, worse.challenger) == (None, None)


def test_one_that_chance_could_have_made_better_is_challenger() -> None:
    close = candidate(172, first=28)  # 28 samples that the champion has right, and 30 that it has not
    decision = judge([close], champion(170), EXPERIMENTS, SEPARABLE)
    assert decision.champion is None
    assert decision.challenger is close
    assert decision.text == (
        "old (version 3, validation accuracy 0.8500) stays champion; new has 0.8600, which is not separable from it "
        "(p = 0.9); 22,760 samples or at least 113 more seeds would tell a difference of 1 point"
    )
    assert judge([close], champion(170), EXPERIMENTS, BETTER).champion is close
    margin = judge([close], champion(170), EXPERIMENTS, Rule("better", margin=0.02))
    assert margin.champion is None
    assert margin.text.endswith("new has 0.8600, which is not ahead by more than the margin, 0.02")


def test_each_of_several_rivals_must_be_further_ahead() -> None:
    """By eight samples that the champion has wrong: p is 0.0078 by itself, and over 0.05 with six others."""
    ahead = candidate(178)
    alone = judge([ahead], champion(170), EXPERIMENTS, SEPARABLE)
    assert alone.champion is ahead
    others = [candidate(170, first=number, name=f"other-{number}") for number in range(6)]
    names = [*EXPERIMENTS, *(each.experiment for each in others)]
    among = judge([ahead, *others], champion(170), names, SEPARABLE)
    assert among.champion is None
    assert "not separable from it (p = 0.055)" in among.text


@pytest.mark.parametrize("rivals_at_a_time", [1, 5])
def test_equally_good_models_rarely_replace_each_other(rivals_at_a_time: int) -> None:
    """All are as good as the champion: in at most 5 of 100 comparisons does one of them replace it."""
    random = np.random.default_rng(0)
    promoted, trials = 0, 1000
    for _ in range(trials):
        found = []
        for number in range(1 + rivals_at_a_time):
            predictions = (random.random(SAMPLES) < 0.15).astype(np.int64)
            made = Predictions(np.zeros(SAMPLES, dtype=np.int64), predictions, "v1", 2)
            metrics = {"validation/accuracy": float(1 - predictions.mean()), "test/accuracy": 0.8}
            found.append(replace(CANDIDATE, experiment=f"e{number}", metrics=metrics, predicted=made))
        old, *rivals = found
        rivals.sort(key=lambda each: -each.value)
        now = replace(CHAMPION, experiment="e0", metrics=old.metrics, predicted=old.predicted, own="e0")
        if rivals[0].value > old.value:
            promoted += judge(rivals, now, [f"e{n}" for n in range(6)], SEPARABLE).champion is not None
    simulated = wilson(promoted, trials)
    print(f"{promoted} of {trials} promoted, {simulated.low:.1%} to {simulated.high:.1%}")
    assert simulated.low <= SEPARABLE.level, "the 95 % interval of the simulated level lies above what is allowed"


def test_any_lets_the_best_of_the_table_be_champion() -> None:
    worse = candidate(150)
    assert judge([worse], champion(190), EXPERIMENTS, ANY).champion is worse


def test_a_model_over_which_a_user_chose_the_champion_does_not_take_its_place() -> None:
    by_hand = replace(champion(150), refused=frozenset(["abc"]), decision="old is champion, chosen by hand: smaller")
    for rule in (SEPARABLE, BETTER, ANY):
        decision = judge([candidate(190)], by_hand, EXPERIMENTS, rule)
        assert decision.champion is None
        assert decision.text == "no new champion: old is champion, chosen by hand: smaller"
        assert judge([candidate(190)], by_hand, ["new"], rule).champion is None, "even if its experiment is gone"
    later = replace(candidate(190), state_dict="def")
    assert judge([candidate(195), later], by_hand, EXPERIMENTS, SEPARABLE).champion is later
    own = replace(candidate(150), experiment="old", state_dict="own")
    lost = replace(by_hand, is_broken=True, own="old")
    assert judge([candidate(190), own], lost, EXPERIMENTS, SEPARABLE).champion is own, "it is logged again"
    worse = replace(candidate(100), experiment="third", state_dict="ghi")
    kept = judge([candidate(190), own, worse], replace(by_hand, own="old"), [*EXPERIMENTS, "third"], ANY)
    assert kept.champion is None, "any means the best of the table, not the best that is left"


def test_a_metric_that_cannot_be_compared_promotes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(targets: np.ndarray, predictions: np.ndarray) -> float:
        if len(np.unique(predictions)) != 2 or (predictions[:172] == 1).sum() not in (28, 30, 2, 0):
            raise ValueError("not these")
        return float((targets == predictions).mean())

    monkeypatch.setitem(METRICS, "picky", Metric("classification", "higher", picky))
    close = replace(candidate(172, first=28), metric="picky", metrics={"validation/picky": 0.86, "test/picky": 0.8})
    decision = judge([close], champion(170), EXPERIMENTS, SEPARABLE)
    assert decision.champion is None
    assert "not separable from it (p = 1)" in decision.text


def test_of_an_error_a_lower_value_is_better() -> None:
    lower = replace(CANDIDATE, metric="loss", metrics={"validation/loss": 0.2})
    for value, promote in ((0.3, True), (0.1, False)):
        found = judge([lower], replace(CHAMPION, metrics={"validation/loss": value}), EXPERIMENTS, SEPARABLE)
        assert (found.champion is lower) == promote


def test_a_champion_of_other_data_is_measured_anew_or_replaced() -> None:
    better = replace(CHAMPION, metrics={"validation/accuracy": 0.99})
    assert judge([CANDIDATE], replace(better, data={"validation": "v0"}), EXPERIMENTS, SEPARABLE).champion
    assert judge([CANDIDATE], replace(better, data={"test": "t1"}), EXPERIMENTS, SEPARABLE).champion
    assert not judge([CANDIDATE], better, EXPERIMENTS, SEPARABLE).champion
    anew = replace(better, data={"validation": "v0"}, predicted=predicted(194))
    decision = judge([candidate(180)], anew, EXPERIMENTS, SEPARABLE)
    assert decision.text == "old (version 3, validation accuracy 0.9700) stays champion; new has 0.9000"


def test_a_champion_that_is_broken_or_gone_is_replaced_by_a_worse_one() -> None:
    better = replace(CHAMPION, metrics={"validation/accuracy": 0.99})
    broken = judge([CANDIDATE], replace(better, is_broken=True, own="new"), EXPERIMENTS, SEPARABLE)
    assert broken.champion
    assert broken.text == "; version 3 was, and cannot be loaded"
    gone = judge([CANDIDATE], better, ["new"], SEPARABLE)
    assert gone.champion
    assert gone.text == "; old (version 3) was, and is no experiment of digits any more"


def test_a_champion_over_a_limit_is_replaced_by_a_worse_one_unless_a_user_chose_it() -> None:
    slow = replace(champion(190), own="old", barred="it takes 7 ms for one sample")
    decision = judge([candidate(150)], slow, EXPERIMENTS, SEPARABLE)
    assert decision.champion
    assert decision.text == "; old (version 3) was, and cannot be: it takes 7 ms for one sample"
    by_hand = replace(slow, refused=frozenset(["abc"]), decision="old is champion, chosen by hand: I can wait")
    kept = judge([candidate(150)], by_hand, EXPERIMENTS, SEPARABLE)
    assert (kept.champion, kept.text) == (None, "no new champion: old is champion, chosen by hand: I can wait")


def test_the_champion_stays_if_the_candidate_is_it_or_a_user_registered_it() -> None:
    same = judge([CANDIDATE], replace(CHAMPION, own="new"), EXPERIMENTS, SEPARABLE)
    assert same.champion is None
    assert same.text == "new stays champion (version 3)"
    beside = judge([candidate(190), candidate(150, name="next")], replace(CHAMPION, own="new"), EXPERIMENTS, SEPARABLE)
    numbers = "its validation accuracy is 0.9500, that of the next, next, is 0.7500"
    assert beside.text == f"new stays champion (version 3); {numbers}"
    by_hand = judge([CANDIDATE], replace(CHAMPION, experiment=None), EXPERIMENTS, SEPARABLE)
    assert by_hand.champion is None
    assert "version 3 stays champion: it was registered by hand and cannot be compared" in by_hand.text


def test_some_experiments_can_never_be_champion() -> None:
    constant = {"kind": "constant", "summary": "always steak"}
    fine = {"kind": "settled", "summary": "settled"}
    any_cost = Costs(), Limits()
    assert why_never_champion(constant, "test", "accuracy", 0.9, *any_cost) == "it says always steak"
    for value in (math.nan, None):
        assert why_never_champion(fine, "test", "accuracy", value, *any_cost) == "its test accuracy is not a number"
    assert why_never_champion(fine, "test", "accuracy", 0.0, *any_cost) is None
    large = "it has 5,000 parameters, more than champion.max_parameters allows (4,000)"
    assert why_never_champion(fine, "test", "accuracy", 0.9, Costs(5000), Limits(4000)) == large
    assert why_never_champion(fine, "test", "accuracy", 0.9, Costs(4000), Limits(4000)) is None


def test_a_model_that_is_too_slow_can_never_be_champion() -> None:
    def why(costs: Costs, most: float | None) -> str | None:
        fine = {"kind": "settled", "summary": "settled"}
        return why_never_champion(fine, "test", "accuracy", 0.9, costs, Limits(max_latency_ms=most))

    slow = "it takes 7.25 ms for one sample (cpu, 1 thread), longer than champion.max_latency_ms allows (5 ms)"
    assert why(Costs(100, 7.25, "cpu, 1 thread"), 5.0) == slow
    assert why(Costs(100, 5.0, "cpu, 1 thread"), 5.0) is None
    assert why(Costs(100, 7.25), None) is None
    unknown = "MLflow does not know its latency, which champion.max_latency_ms limits; next: trackway relog"
    assert why(Costs(100), 5.0) == unknown


def test_predictions_come_back_from_their_file(tmp_path: Path) -> None:
    file = tmp_path / "predictions.npz"
    made = predicted(3)
    file.write_bytes(as_file({"test": made}))
    found = read(file, "test")
    assert found
    assert (found.data, found.classes) == ("v1", 2)
    np.testing.assert_array_equal(found.predictions, made.predictions)
    assert read(file, "validation") is None
    file.write_bytes(file.read_bytes()[:100])
    assert read(file, "test") is None
    file.unlink()
    assert read(file, "test") is None


def test_means_over_seeds_are_compared_by_seeds_and_samples() -> None:
    def with_seeds(*right: int) -> Predictions:
        each = [predicted(number, first) for first, number in enumerate(right)]
        return replace(each[0], predictions=np.stack([one.predictions for one in each]))

    mean = {"validation/accuracy": 0.875}
    ours = replace(candidate(170), metrics=CANDIDATE.metrics | mean, predicted=with_seeds(165, 175, 185))
    close = judge([ours], replace(champion(170), predicted=with_seeds(160, 170, 180)), EXPERIMENTS, SEPARABLE)
    assert close.challenger is ours
    assert "old (version 3, validation accuracy 0.8500) stays champion; new has 0.8750" in close.text
    assert "more seeds would tell" in close.text or "samples would tell" in close.text
    clear = judge([ours], replace(champion(100), predicted=with_seeds(98, 100, 102)), EXPERIMENTS, SEPARABLE)
    assert clear.champion is ours


def test_a_model_that_was_trained_again_is_told_from_its_older_version() -> None:
    older = replace(champion(190), experiment="new", own=None)
    worse = judge([candidate(150)], older, EXPERIMENTS, SEPARABLE)
    stays = "new (version 3, validation accuracy 0.9500) stays champion; the newly trained new has 0.7500"
    assert worse.text == stays
    better = judge([candidate(190)], replace(older, predicted=champion(150).predicted), EXPERIMENTS, SEPARABLE)
    assert better.text == "; version 3 has 0.7500 there (p = 1.8e-12)"
