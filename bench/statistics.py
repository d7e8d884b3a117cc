"""(k) Statistics: how long a paired test and an interval take, and how often a difference is found (power).

The power is that of the gate's test, at its default level: of two models that make different mistakes, of which one is
so much better. Seeds differ by half a point.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
from scipy.stats import norm

from bench.common import show
from learn.comparison.paired import compare
from learn.evaluation.intervals import Interval, grouped, interval
from learn.evaluation.uncertainty import mean_of_seeds

TIMES = 5
SAMPLES = 10_000
CLASSES = 10
LEVEL = 0.05
ACCURACY = 0.95  # of the worse model
BETTER = (0.01, 0.02, 0.05)
SPREAD_OF_SEEDS = 0.005  # standard deviation of the accuracies of seeds
SHARED = 0.8  # correlation of what is hard for one seed, one model and for another
TRIALS = 300


def main() -> None:
    _speed()
    _power()


def _speed() -> None:
    random = np.random.default_rng(0)
    targets = random.integers(CLASSES, size=SAMPLES)
    first, second = (_predicted(random, targets, accuracy) for accuracy in (0.95, 0.94))
    seeds = np.stack([_predicted(random, targets, 0.95) for _ in range(5)])
    numbers = random.normal(size=(SAMPLES, 1)).astype(np.float32)
    off = numbers + random.normal(size=(SAMPLES, 1)).astype(np.float32)
    other = numbers + random.normal(size=(SAMPLES, 1)).astype(np.float32)
    of_seeds = grouped(targets, *seeds, classes=CLASSES, stratified=False)
    work: dict[str, tuple[Callable[[], object], str]] = {
        "accuracy, paired test": (
            lambda: compare("accuracy", targets, first, second, classes=CLASSES, level=None),
            "50 ms",
        ),
        "f1_macro, paired test": (lambda: compare("f1_macro", targets, first, second, classes=CLASSES, level=None), ""),
        "mae, paired test": (lambda: compare("mae", numbers, off, other, classes=0, level=None), "50 ms"),
        "accuracy over 5 seeds, paired test": (
            lambda: compare("accuracy", targets, seeds, seeds[:3], classes=CLASSES, level=None),
            "",
        ),
        "accuracy over 5 seeds, interval": (lambda: mean_of_seeds("accuracy", of_seeds), ""),
        "f1_macro, interval of 10,000 resamples": (lambda: _interval("f1_macro", targets, first, CLASSES), "3 s"),
        "mae, interval of 10,000 resamples": (lambda: _interval("mae", numbers, off, 0), "3 s"),
    }
    rows = [[name, f"{_seconds(function) * 1e3:,.0f} ms", allowed] for name, (function, allowed) in work.items()]
    show(f"(k) Statistics of {SAMPLES:,} samples, medians of {TIMES}", ["what", "time", "allowed"], rows)


def _interval(metric: str, targets: np.ndarray, predictions: np.ndarray, classes: int) -> Interval | None:
    return interval(metric, targets, predictions, classes=classes, resamples=10_000)


def _predicted(random: np.random.Generator, targets: np.ndarray, accuracy: float) -> np.ndarray:
    wrong = (targets + random.integers(1, CLASSES, size=len(targets))) % CLASSES
    return np.where(random.random(len(targets)) < accuracy, targets, wrong)


def _seconds(function: Callable[[], object]) -> float:
    function()  # imports
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return median(taken)


def _power() -> None:
    rows = []
    for samples in (75, 360, 10_000):
        for seeds in (1, 5):
            found = [f"{_found(samples, seeds, better):.0%}" for better in BETTER]
            rows.append([f"{samples:,}", str(seeds), *found])
    columns = ["samples", "seeds", *(f"{better * 100:.0f} points better" for better in BETTER)]
    show(f"(k) Power: how often a difference from {ACCURACY:.0%} accuracy is found, {TRIALS} trials", columns, rows)


def _found(samples: int, seeds: int, better: float) -> float:
    random, told = np.random.default_rng(1), 0
    targets = np.zeros(samples, dtype=np.int64)
    for _ in range(TRIALS):
        hard = random.normal(size=samples)
        both = (_mistakes(random, hard, seeds, accuracy) for accuracy in (ACCURACY + better, ACCURACY))
        told += compare("accuracy", targets, *both, classes=2, level=None, resamples=200).p <= LEVEL
    return told / TRIALS


def _mistakes(random: np.random.Generator, hard: np.ndarray, seeds: int, accuracy: float) -> np.ndarray:
    """Returns (N,), or (S, N) for several seeds: 1 for a mistake; hard samples are hard for all."""
    accuracies = np.clip(random.normal(accuracy, SPREAD_OF_SEEDS, size=(seeds, 1)), 0.5, 0.9999)
    own = random.normal(size=(seeds, len(hard)))
    skill = np.sqrt(SHARED) * hard + np.sqrt(1 - SHARED) * own
    mistakes = (skill > norm.ppf(accuracies)).astype(np.int64)
    return mistakes if seeds > 1 else mistakes[0]
