from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from learn.data.transformed import Info, resize
from learn.training.splits import load_split
from tests.support.project import Project


def test_the_parts_hold_the_raw_samples_and_are_memory_mapped(by_flow: Project) -> None:
    transformed = by_flow.folder / "data/transformed/digits"
    infos = {kind: Info.read(transformed / kind) for kind in ("training", "evaluation")}
    assert infos["training"].shape == infos["evaluation"].shape == (1, 8, 8)
    assert infos["training"].samples == {"train": 1257, "validation": 180}
    assert infos["evaluation"].samples == {"test": 360}
    assert infos["training"].held_out == "validation"
    raw = np.load(by_flow.folder / "data/raw/digits/inputs.npy")
    for name, samples, folder in (
        (name, samples, transformed / kind) for kind, info in infos.items() for name, samples in info.samples.items()
    ):
        index = np.load(by_flow.folder / f"data/split/digits/{name}.npy")
        assert isinstance(np.load(folder / f"{name}-inputs.npy", mmap_mode="r"), np.memmap)
        part = load_split(folder, name)
        assert len(part) == samples
        assert part.inputs.dtype == torch.uint8
        assert np.array_equal(part.inputs.numpy(), raw[index])


def test_a_batch_is_what_to_tensor_makes(by_flow: Project) -> None:
    part = load_split(by_flow.folder / "data/transformed/digits/evaluation", "test", memory_format="channels_last")
    inputs, targets = part.batch(torch.tensor([3, 1]))
    assert torch.equal(inputs, part.inputs[[3, 1]].to(torch.float32).div(16))
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(targets, part.targets[[3, 1]])


def test_resize_is_torchvision_s() -> None:
    from torchvision.transforms import Resize

    images = np.random.default_rng(0).integers(0, 256, (2, 1, 28, 28), dtype=np.uint8)
    resized = resize(images, 12)
    assert resized.shape == (2, 1, 12, 12)
    for image, expected in zip(resized, images, strict=True):
        assert np.array_equal(image[0], np.asarray(Resize((12, 12))(Image.fromarray(expected[0]))))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_resize_keeps_dtype_and_range(dtype: type) -> None:
    signed: np.ndarray = np.random.default_rng(0).uniform(-900, 900, (2, 3, 28, 28)).astype(dtype)
    resized = resize(signed, 12)
    assert resized.dtype == dtype
    assert signed.min() <= resized.min() < -100
    assert abs(float(resized.mean()) - float(signed.mean())) < 10
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(signed).double(), (12, 12), mode="bilinear", antialias=True
    )
    assert np.allclose(resized, expected.numpy(), atol=0.6 if dtype == np.int16 else 1e-2)


def test_resizing_is_a_setting_of_the_dataset(finished: Project) -> None:
    finished.edit(
        "params.yaml",
        "stratify: true, seed: 42}\n    transform: {}",
        "stratify: true, seed: 42}\n    transform: {resize: 12}",
    )
    done = finished.stage("transform@digits")
    assert "inputs (1, 12, 12), 1,797 samples" in done.stdout
    assert np.load(finished.folder / "data/transformed/digits/evaluation/test-inputs.npy").shape == (360, 1, 12, 12)
