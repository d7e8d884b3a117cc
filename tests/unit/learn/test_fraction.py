"""A fraction of the training part: nested, stratified where asked, in the order of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from learn.data.transformed import Info
from learn.errors import DataError
from learn.training.fraction import chosen_indices, chosen_samples
from learn.training.splits import StreamedSplit, load_split
from tasks.assemble import assemble
from tasks.params import Params
from tests.support.outputs import experiment, params_of

TARGETS = np.repeat([0, 1, 2], [78, 75, 72])  # the classes of the course's photos, one after the other


@pytest.mark.parametrize("stratify", [False, True])
def test_a_fraction_lies_inside_each_larger_one_and_all_samples_keep_their_order(stratify: bool) -> None:
    before: set[int] = set()
    for fraction in (0.01, 0.1, 0.2, 0.5, 0.999, 1.0):
        index = chosen_indices(TARGETS, fraction, stratify=stratify, seed=42)
        assert len(index) == chosen_samples(len(TARGETS), fraction)
        assert (np.diff(index) > 0).all()
        assert before <= set(index.tolist())
        before = set(index.tolist())
    assert before == set(range(len(TARGETS)))
    other = chosen_indices(TARGETS, 0.1, stratify=stratify, seed=43)
    assert set(other.tolist()) != set(chosen_indices(TARGETS, 0.1, stratify=stratify, seed=42).tolist())


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.37])
def test_a_stratified_fraction_has_the_same_share_of_each_class(fraction: float) -> None:
    for seed in range(20):
        index = chosen_indices(TARGETS, fraction, stratify=True, seed=seed)
        off = np.bincount(TARGETS[index]) - fraction * np.bincount(TARGETS)
        assert np.abs(off).max() <= 1


def written(folder: Path, samples: int, classes: int) -> Params:
    """A transformed dataset below the folder whose classes stand one after the other, and params.yaml's content."""
    training = folder / "data/transformed/digits/training"
    training.mkdir(parents=True)
    targets = np.sort(np.arange(samples) % classes)
    for part in ("train", "validation"):
        np.save(training / f"{part}-inputs.npy", np.arange(samples, dtype=np.float32).reshape(-1, 1, 1, 1))
        np.save(training / f"{part}-targets.npy", targets)
    info = Info((1, 1, 1), tuple(map(str, range(classes))), 1.0, {"train": samples, "validation": samples})
    (training / "info.json").write_text(info.to_json())
    return params_of({"whole": experiment("digits"), "tenth": experiment("digits", fraction=0.1)})


@pytest.mark.parametrize("memory", ["resident", "streamed"])
def test_only_the_training_part_is_cut_resident_and_streamed(
    tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = written(tmp_path, 100, 10).model_copy(update={"memory": memory})
    monkeypatch.chdir(tmp_path)
    whole, tenth = (assemble(params, name, "train", "held out") for name in ("whole", "tenth"))
    assert [len(each.splits["train"]) for each in (whole, tenth)] == [100, 10]
    assert [len(each.held_out) for each in (whole, tenth)] == [100, 100]
    train = tenth.splits["train"]
    assert isinstance(train, StreamedSplit) == (memory == "streamed")
    assert sorted(train.targets.tolist()) == list(range(10)), "one of each class, for the split is stratified"
    index: list[torch.Tensor | slice] = [slice(0, 4), torch.tensor([9, 0, 4]), slice(4, 10)]
    inputs, targets = (torch.cat(each) for each in zip(*train.batches(index), strict=True))
    chosen = chosen_indices(whole.splits["train"].targets.numpy(), 0.1, stratify=True, seed=42)
    expected = chosen[[0, 1, 2, 3, 9, 0, 4, 4, 5, 6, 7, 8, 9]]
    assert inputs.flatten().tolist() == expected.tolist()
    assert targets.tolist() == (expected // 10).tolist()


def test_a_part_of_a_streamed_part_is_found_in_the_file(tmp_path: Path) -> None:
    written(tmp_path, 20, 2)
    folder = tmp_path / "data/transformed/digits/training"
    part = load_split(folder, "train", streamed=True).only(np.arange(5, 15)).only(np.array([0, 9]))
    assert part.batch(slice(0, 2))[0].flatten().tolist() == [5, 14]


def test_a_fraction_without_samples_of_a_class_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = written(tmp_path, 40, 10)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        assemble(params, "tenth", "train")
    message = str(caught.value)
    assert message.startswith("experiments.tenth.fraction is 0.1: of 40 training samples it leaves 4, and none of ")
    assert message.endswith("; set a larger fraction")
