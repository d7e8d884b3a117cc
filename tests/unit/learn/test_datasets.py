from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from learn.data.datasets.fashion_mnist import FashionMNIST, _read_idx
from learn.data.datasets.line import Line
from learn.data.source import Generated
from tasks.params import load_params
from tests.support.project import ROOT

GENERATED = [
    dataset.source
    for dataset in load_params(ROOT / "params.yaml").datasets.values()
    if isinstance(dataset.source, Generated)
]


@pytest.mark.parametrize("source", GENERATED, ids=lambda source: source.name)
def test_a_source_is_what_it_said_it_would_be(source: Generated) -> None:
    inputs, targets = source.generate()
    assert len(inputs) == len(targets) == sum(source.sizes)
    assert inputs.shape[1:] == source.shape
    assert inputs.dtype == (np.uint8 if len(source.shape) == 3 else np.float32)
    if source.classes:
        assert targets.dtype == np.int64
        assert set(targets.tolist()) == set(range(len(source.classes)))
    else:
        assert targets.shape == (len(inputs), 1)
        assert targets.dtype == np.float32
    assert 0.9 < inputs.max() / source.scale <= 1.0 or source.scale == 1.0


def test_the_line_is_the_course_s_to_the_last_bit_of_a_float() -> None:
    x = torch.arange(0, 1, 0.02).unsqueeze(1)
    inputs, targets = Line("line", 0.7, 0.3, 0.0, 1.0, 0.02).generate()
    np.testing.assert_array_max_ulp(inputs, x.numpy(), maxulp=1)
    np.testing.assert_array_max_ulp(targets, (0.7 * x + 0.3).numpy(), maxulp=1)


def test_fashion_mnist_reads_as_torchvision_does(mirror: Path, tmp_path: Path) -> None:
    from torchvision.datasets import FashionMNIST as Reference

    source = FashionMNIST("fashion_mnist")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in source.files:
        with (
            gzip.open(mirror / source.folder / file) as packed,
            (raw / file.removesuffix(".gz")).open("wb") as unpacked,
        ):
            shutil.copyfileobj(packed, unpacked)
    train, test = Reference(tmp_path, train=True), Reference(tmp_path, train=False)
    inputs, targets = source.read(mirror / source.folder)
    assert np.array_equal(inputs[:, 0], torch.cat([train.data, test.data]).numpy())
    assert np.array_equal(targets, torch.cat([train.targets, test.targets]).numpy())
    assert source.classes == tuple(train.classes)
    assert source.sizes == (len(train), len(test))
    assert source.shape == inputs.shape[1:]


def test_a_file_that_is_not_idx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(b"something else"))
    with pytest.raises(Exception, match=r"images.gz is not an IDX file of bytes; delete it and run the download stage"):
        _read_idx(path)
