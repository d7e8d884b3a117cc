"""Intervals and paired tests tell the truth: simulations, in which the truth is known, and SciPy's own results."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, norm, permutation_test

from learn.comparison.paired import Comparison, compare, holm, mcnemar, samples_needed, what_would_tell
from learn.comparison.sign_flips import sign_flips
from learn.evaluation.intervals import Interval, grouped, interval, intervals, wilson
from learn.evaluation.metrics import METRICS, Metric, metrics_for
from learn.evaluation.predictions import Predictions
from learn.evaluation.uncertainty import Uncertainty

CLASSES = ("a", "b", "c")
SAMPLES = 120


def predicted(random: np.random.Generator, targets: np.ndarray, accuracy: float) -> np.ndarray:
    """Predictions that are right with this probability, and else another class."""
    wrong = (targets + random.integers(1, len(CLASSES), size=len(targets))) % len(CLASSES)
    return np.where(random.random(len(targets)) < accuracy, targets, wrong)


def plausible(found: int, trials: int, probability: float) -> bool:
    """Whether so many of the trials may come out if each does with this probability, in all but 1 of 1,000 cases."""
    return bool(binomtest(found, trials, probability).pvalue > 0.001)


@pytest.mark.parametrize("metric", [name for name, metric in METRICS.items() if metric.weighted])
def test_a_weighted_metric_is_scikit_learn_s(metric: str) -> None:
    targets: np.ndarray
    random = np.random.default_rng(0)
    if metric in metrics_for(CLASSES):
        targets = random.integers(3, size=SAMPLES)
        predictions = np.minimum(predicted(random, targets, 0.7), 1)  # never the last class
    else:
        targets = random.normal(size=(SAMPLES, 1)).astype(np.float32)
        predictions = targets + random.normal(size=(SAMPLES, 1)).astype(np.float32)
    times = random.integers(3, size=(4, SAMPLES))
    score = METRICS[metric].score
    assert score
    one_by_one = [score(np.repeat(targets, n, axis=0), np.repeat(predictions, n, axis=0)) for n in times]
    np.testing.assert_allclose(METRICS[metric].of_weights(targets, predictions, times.astype(float)), one_by_one, 1e-5)


def test_a_resample_keeps_the_number_of_samples_and_of_each_class_if_the_split_is_stratified() -> None:
    random = np.random.default_rng(0)
    targets = random.integers(3, size=SAMPLES)
    for stratified in (False, True):
        samples = grouped(targets, predicted(random, targets, 0.8), classes=3, stratified=stratified)
        (weights,) = samples.weights(100)
        assert (weights.sum(axis=1) == SAMPLES).all()
        of_class = np.stack([weights[:, samples.targets == i].sum(axis=1) for i in range(3)], axis=1)
        assert (of_class == np.bincount(targets)).all() == stratified


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "mae"])
def test_intervals_cover_as_they_say(metric: str) -> None:
    targets: np.ndarray
    random, trials = np.random.default_rng(1), 400
    covered = 0
    for _ in range(trials):
        if metric == "mae":
            targets = np.zeros((SAMPLES, 1), dtype=np.float32)
            predictions = random.normal(size=(SAMPLES, 1)).astype(np.float32)
            truth, classes = np.sqrt(2 / np.pi), 0
        else:  # with balanced classes and errors, F1 is the accuracy
            targets = np.arange(SAMPLES) % 3
            predictions, truth, classes = predicted(random, targets, 0.85), 0.85, 3
        found = interval(metric, targets, predictions, classes=classes, level=0.9, resamples=500)
        assert found
        covered += found.low <= truth <= found.high
    assert covered / trials > 0.86
    assert plausible(covered, trials, 0.9)


@pytest.mark.parametrize("metric", ["f1_macro", "recall_macro"])
def test_intervals_of_a_stratified_split_cover_as_they_say(metric: str) -> None:
    """Classes that are not equally common nor equally hard; other data would have as many samples of each."""
    random, trials, covered = np.random.default_rng(7), 300, 0
    counts, right = np.array([120, 80, 40]), np.array([0.97, 0.85, 0.6])
    targets = np.repeat(np.arange(3), counts)
    actual, said = np.indices((3, 3)).reshape(2, -1)
    expected = np.where(np.eye(3, dtype=bool), right[:, None], (1 - right[:, None]) / 2) * counts[:, None]
    truth = METRICS[metric].of_weights(actual, said, expected.reshape(1, -1))[0]
    for _ in range(trials):
        wrong = (targets + random.integers(1, 3, size=len(targets))) % 3
        predictions = np.where(random.random(len(targets)) < right[targets], targets, wrong)
        found = interval(metric, targets, predictions, classes=3, stratified=True, level=0.9, resamples=500)
        assert found
        covered += found.low <= truth <= found.high
    assert covered / trials > 0.86
    assert plausible(covered, trials, 0.9)


def test_a_stratified_split_changes_all_intervals_but_that_of_the_accuracy() -> None:
    targets = np.repeat([0, 1, 2], [120, 80, 40])
    found = Predictions(targets, predicted(np.random.default_rng(8), targets, 0.8), "md5", 3)
    free, stratified = (intervals(found, stratified=stratified) for stratified in (False, True))
    assert [name for name in free if free[name] == stratified[name]] == ["accuracy"]


def test_the_bootstrap_is_scipy_s() -> None:
    errors = np.random.default_rng(2).exponential(size=(80, 1)).astype(np.float32)
    ours = interval("mae", np.zeros_like(errors), errors, classes=0)
    theirs = bootstrap((errors.ravel().astype(float),), np.mean, n_resamples=10_000, rng=3).confidence_interval
    assert ours
    np.testing.assert_allclose([ours.low, ours.high], theirs, rtol=0.02)
    assert interval("mae", np.zeros_like(errors), errors, classes=0) == ours, "the same samples, the same interval"


def test_what_has_no_interval_and_what_has_an_empty_one() -> None:
    one = np.zeros(1, dtype=np.int64)
    assert interval("loss", one, one, classes=2) is None
    assert interval("f1_macro", one, one, classes=2) is None
    same = np.arange(SAMPLES) % 3
    assert interval("f1_macro", same, same, classes=3) == Interval(1, 1)
    assert wilson(SAMPLES, SAMPLES).low > 0.96


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "mae"])
def test_equally_good_models_are_told_apart_in_at_most_so_many_cases(metric: str) -> None:
    targets: np.ndarray
    random = np.random.default_rng(3)
    trials = 1000 if metric == "accuracy" else 300
    told = 0
    for _ in range(trials):
        if metric == "mae":
            targets = random.normal(size=(SAMPLES, 1)).astype(np.float32)
            first, second = (targets + random.normal(size=targets.shape).astype(np.float32) for _ in range(2))
        else:
            targets = random.integers(3, size=SAMPLES)
            first, second = (predicted(random, targets, 0.85) for _ in range(2))
        classes = 0 if metric == "mae" else 3
        told += compare(metric, targets, first, second, classes=classes, level=None, resamples=300).p <= 0.05
    assert binomtest(told, trials, 0.05, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize("kind", ["normal", "heavy tails"])
def test_signs_that_are_not_drawn_give_the_p_value_of_all_signs(kind: str) -> None:
    """SciPy's test of all 2^n signs for few samples, and the one of random signs for many."""
    random = np.random.default_rng(9)

    def drawn(samples: int) -> np.ndarray:
        return random.normal(0.15, 1, samples) if kind == "normal" else random.standard_t(3, samples) + 0.15

    for _ in range(5):
        few = drawn(14)
        exact = permutation_test((few,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
        assert sign_flips(few) == pytest.approx(exact, rel=0.1, abs=0.01)
        many = drawn(250)
        signs = random.choice([-1.0, 1.0], size=(40_000, len(many)))
        simulated = (np.abs(signs @ many) >= abs(many.sum())).mean()
        assert sign_flips(many) == pytest.approx(simulated, rel=0.05, abs=0.01)


def test_signs_of_special_differences() -> None:
    assert sign_flips(np.zeros(300)) == 1
    assert sign_flips(np.array([1.0, -1.0] * 150)) == 1
    assert sign_flips(np.ones(300)) == 2.0**-299
    assert sign_flips(np.array([np.inf, 1.0])) == 1
    for tiny in (1e-3, 1e-30):
        assert sign_flips(np.array([1e6, *[tiny, -tiny] * 150])) > 0.4, "one sample decides"
    assert sign_flips(np.array([0.5, -0.5] * 150 + [0.1])) == pytest.approx(1, abs=0.02)


def test_equally_good_regressions_of_many_samples_are_told_apart_in_at_most_so_many_cases() -> None:
    random, trials, samples = np.random.default_rng(10), 1000, 400
    targets, told = np.zeros((samples, 1)), 0
    for _ in range(trials):
        first, second = (random.standard_t(4, size=targets.shape) for _ in range(2))
        told += compare("mae", targets, first, second, classes=0, level=None).p <= 0.05
    assert plausible(told, trials, 0.05)


def test_a_better_model_is_found_as_often_as_its_number_of_samples_promises() -> None:
    random, trials, better, worse = np.random.default_rng(4), 300, 0.92, 0.84
    discordant = better * (1 - worse) + worse * (1 - better)
    samples = samples_needed(better - worse, discordant)
    found = 0
    for _ in range(trials):
        targets = random.integers(3, size=samples)
        found += mcnemar(targets, predicted(random, targets, better), predicted(random, targets, worse)) <= 0.05
    assert 0.7 < found / trials < 0.9


def test_a_comparison_says_how_much_and_how_sure() -> None:
    targets = np.arange(SAMPLES) % 3
    first, second = targets.copy(), targets.copy()
    second[:12] = (targets[:12] + 1) % 3
    found = compare("accuracy", targets, first, second, classes=3)
    assert found.difference == pytest.approx(0.1)
    assert found.interval
    assert 0.04 < found.interval.low < 0.1 < found.interval.high < 0.17
    assert found.p == pytest.approx(2 * 0.5**12)
    assert found.discordant == pytest.approx(0.1)
    alike = compare("accuracy", targets, second, second, classes=3)
    assert (alike.difference, alike.p, alike.interval) == (0, 1, Interval(0, 0))


def of_seeds(random: np.random.Generator, seeds: int, skill: np.ndarray, spread: float, samples: int) -> np.ndarray:
    """Predictions (S, N) of a model, 1 for a wrong one, whose seeds differ by so much in their skill.

    Args:
        skill: (N,): how easy each sample is for the model.
    """
    off = random.normal(0, spread, size=(seeds, 1)) + random.normal(0, 0.5, size=(seeds, samples))
    return np.asarray(skill[None] + off < 0, dtype=np.int64)


@pytest.mark.parametrize(("samples", "seeds", "others"), [(75, 3, 3), (360, 5, 5), (360, 1, 5)])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_equally_good_models_with_seeds_are_told_apart_in_at_most_so_many_cases(
    samples: int, seeds: int, others: int, spread: float
) -> None:
    random, trials, told = np.random.default_rng(5), 300, 0
    targets = np.zeros(samples, dtype=np.int64)
    for _ in range(trials):
        easy = random.normal(1.8, 1, samples)
        first, second = (
            of_seeds(random, number, easy + random.normal(0, 0.5, samples), spread, samples)
            for number in (seeds, others)
        )
        found = compare("accuracy", targets, first, second, classes=2, level=None, resamples=200)
        told += found.p <= 0.05
    assert binomtest(told, trials, 0.05, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_the_interval_of_a_mean_over_seeds_covers_as_it_says(spread: float) -> None:
    random, trials, covered, samples = np.random.default_rng(6), 600, 0, 360
    truth = norm.cdf(1.8 / np.sqrt(1 + 0.5**2 + spread**2))
    targets = np.zeros(samples, dtype=np.int64)
    for _ in range(trials):
        predictions = of_seeds(random, 3, random.normal(1.8, 1, samples), spread, samples)
        found = interval("accuracy", targets, predictions, classes=2, level=0.9, resamples=200)
        assert found
        covered += found.low <= truth <= found.high
    assert covered / trials > 0.86


def test_a_difference_of_means_is_one_of_their_seeds_and_their_samples() -> None:
    targets = np.zeros(100, dtype=np.int64)
    right, half = np.zeros((3, 100), dtype=np.int64), np.zeros((2, 100), dtype=np.int64)
    half[:, :50] = 1
    found = compare("accuracy", targets, right, half, classes=2)
    assert (found.difference, found.seeds) == (0.5, 2)
    assert found.interval
    assert 0.3 < found.interval.low < 0.5 < found.interval.high < 0.7
    assert found.p < 1e-6
    same = compare("accuracy", targets, right, right[:2], classes=2)
    assert (same.difference, same.p, same.interval) == (0, 1, Interval(0, 0))
    apart = np.stack([half[0], right[0]])
    wide = compare("accuracy", targets, apart, right[:1], classes=2).interval
    assert wide == Interval(-1, 1), "one degree of freedom; no difference is larger"
    regression = compare("mae", targets[:, None].astype(float), right[..., None] + 0.1, half[..., None], classes=0)
    assert regression.difference == pytest.approx(0.1 - 0.5)
    assert regression.p < 1e-4


def test_it_says_how_many_samples_or_seeds_would_tell() -> None:
    def found(samples: float, seeds: float) -> str:
        uncertainty = Uncertainty(samples, seeds, 4)
        return what_would_tell(0.01, Comparison(0.005, None, 0.5, np.nan, 1000, uncertainty, 3), 0.05)

    assert found(1e-7, 1e-7) == "these samples and seeds"
    assert found(1e-5, 1e-5) == "3,649 samples or 8 more seeds"
    assert found(1e-4, 1e-6) == "8,518 samples"
    assert found(1e-6, 1e-4) == "23 more seeds"
    assert found(1e-4, 1e-4) == "only more samples and more seeds together"
    one_seed = what_would_tell(0.01, Comparison(0.005, None, 0.5, 0.1, 1000), 0.05)
    assert one_seed == "7,847 samples or at least 7 more seeds"
    assert what_would_tell(0.01, Comparison(0.005, None, 0.5, 0.1, 8000), 0.05) == "these samples"


def test_an_interval_over_seeds_stays_in_the_metric_s_range_and_needs_all_resamples() -> None:
    targets = np.arange(60) % 3
    good, bad = targets.copy(), np.where(np.arange(60) < 20, (targets + 1) % 3, targets)
    found = interval("f1_macro", targets, np.stack([good, bad]), classes=3)
    assert found == Interval(found.low if found else 0, 1)
    errors = np.stack([np.full((60, 1), 0.1), np.full((60, 1), 0.3)])
    lowest = interval("mae", np.zeros((60, 1)), errors, classes=0)
    assert lowest
    assert lowest.low == 0
    few = np.array([[0.0]] * 9 + [[1.0]])  # a resample without the last one has no variance, and r2 no value
    predictions = few + np.array([0.01, 0.02, 0.04])[:, None, None]
    assert interval("r2", few, predictions, classes=0) is None


def test_several_comparisons_are_corrected() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


def test_a_metric_of_ones_own_has_an_interval_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def worst(targets: np.ndarray, predictions: np.ndarray) -> float:
        return float(np.abs(targets - predictions).max())

    monkeypatch.setitem(METRICS, "worst", Metric("regression", "lower", worst))
    errors = np.linspace(0, 1, 50, dtype=np.float32)[:, None]
    found = interval("worst", np.zeros_like(errors), errors, classes=0)
    assert found
    assert 0.8 < found.low < found.high <= 1

    def picky(targets: np.ndarray, predictions: np.ndarray) -> float:
        if len(np.unique(targets)) < 3:
            raise ValueError("a class is missing")
        return 1.0

    monkeypatch.setitem(METRICS, "picky", Metric("classification", "higher", picky))
    targets = np.array([0] * 10 + [1] * 10 + [2])
    assert interval("picky", targets, targets, classes=3) is None
    all_found = intervals(Predictions(targets, targets, "md5", 3), stratified=False)
    assert set(all_found) == {"accuracy", "precision_macro", "recall_macro", "f1_macro"}
