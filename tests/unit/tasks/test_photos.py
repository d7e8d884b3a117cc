"""The checks of photos before any training, on what was decoded; and the whole transform stage in little memory."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.photos import SEEN, problems

CLASSES = ("cat", "dog")


Seen = tuple[str, int, int, int]
Photos = list[tuple[int, Seen]]  # each with its class


def photo(sha: str, looks: int = 0, width: int = 64, height: int = 64) -> Seen:
    return sha, looks, width, height


def found(train: Photos, test: Photos, size: int = 64, *, cropped: bool = False) -> dict[str, str]:
    """Kind of problem → its text. train, test: (class, photo)."""
    names: list[str] = []
    known, labels = {}, []
    for part, photos in {"train": train, "test": test}.items():
        rows = [(len(names) + i, w, h, sha.encode(), looks) for i, (_, (sha, looks, w, h)) in enumerate(photos)]
        known[part] = np.array(rows, SEEN)
        labels += [label for label, _ in photos]
        names += [f"{part}/{i}.jpg" for i in range(len(photos))]
    these = problems(CLASSES, names, known, np.array(labels), {}, size, cropped=cropped)
    return {p.kind: f"{p.text} {p.files}" for p in these}


GOOD = [(0, photo("a", 0)), (1, photo("b", 2**64 - 1))], [(0, photo("c", 0xF0F0F0F0)), (1, photo("d", 0x0F0F << 40))]


def test_good_photos_have_no_problems() -> None:
    assert found(*GOOD) == {}


@pytest.mark.parametrize(
    ("train", "test", "kind", "words"),
    [
        ([(0, photo("x"))], [], "empty class", "dog has no photos"),
        ([(0, photo("x"))], [(1, photo("y", 255))], "missing class", "dog has photos in test and none in train"),
        ([(0, photo("x"))] * 3, [], "imbalance", "weight: [0.667, 2]} (for BCEWithLogitsLoss pos_weight: [3])"),
        ([(0, photo("x", 1 << 40))], [(1, photo("x", 99))], "duplicate", "['test/2.jpg = train/2.jpg']"),
        ([(0, photo("x", 1 << 40))], [(1, photo("x", 99))], "two labels", "1 photo is also in another class"),
        ([(0, photo("x", 0xFF00FF))], [(1, photo("y", 0xFF00F0))], "near-duplicate", "['test/2.jpg ≈ train/2.jpg']"),
        ([(0, photo("x", 1 << 40, 40, 40))], [], "tiny", "1 photos are smaller than 64×64"),
        ([(0, photo("x", 1 << 40, 640, 100))], [], "extreme", "['train/2.jpg: 640×100']"),
    ],
)
def test_each_problem_is_found(train: Photos, test: Photos, kind: str, words: str) -> None:
    base = ([], []) if "class" in kind else GOOD
    if kind == "imbalance":
        train = train + [(0, photo(f"more{i}", 1 << i)) for i in range(2)] + [(1, photo("other"))]
    assert words in found(base[0] + train, base[1] + test)[kind]


def test_long_photos_are_distorted_or_cropped() -> None:
    long = [(0, photo("x", 1 << 40, 640, 100))]
    assert "1 photos are far from square and were distorted" in found(GOOD[0] + long, GOOD[1])["extreme"]
    assert "and lost most of their longer side" in found(GOOD[0] + long, GOOD[1], cropped=True)["extreme"]


def test_five_bits_apart_are_two_photos() -> None:
    assert found(GOOD[0] + [(0, photo("x", 0xFF00FF))], GOOD[1] + [(1, photo("y", 0xFF00E0))]) == {}
