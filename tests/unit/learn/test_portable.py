"""An exported model reads photos and numbers by itself, and predicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from learn.data.photos.decode import Fit
from learn.portable import InputError, PortableModel, input_as_photo, main, numbers, photo_as_input
from learn.raw_inputs import RawInputs
from learn.training.build import build_loss


@pytest.mark.parametrize(
    ("scale", "shape", "fit"),
    [(255.0, (3, 8, 8), None), (16.0, (1, 8, 8), None), (255.0, (3, 8, 8), Fit(8, 11, "bicubic"))],
)
def test_an_input_as_a_picture_gives_the_same_input(
    tmp_path: Path, scale: float, shape: tuple[int, ...], fit: Fit | None
) -> None:
    values = np.random.default_rng(0).integers(int(scale) + 1, size=shape).astype(np.uint8)
    input_as_photo(values, scale, fit).save(tmp_path / "a.png")
    np.testing.assert_array_equal(photo_as_input(tmp_path / "a.png", shape, "uint8", scale, fit), values)


def exported(
    file: Path,
    classes: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: str,
    scale: float,
    columns: dict[str, Any] | None = None,
) -> Path:
    """A file as `trackway export --format pt2` writes it, with a linear layer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), len(classes) or 1))
    loss = build_loss("CrossEntropyLoss" if classes else "MSELoss", {}, classes)
    graph = RawInputs(model, loss, scale).eval()
    batch = torch.from_numpy(np.zeros((2, *shape), dtype))
    program = torch.export.export(graph, (batch,), dynamic_shapes=[{0: torch.export.Dim.AUTO}])
    about = {
        "model": "pets",
        "version": "3",
        "classes": json.dumps(classes),
        "input_shape": json.dumps(shape),
        "input_dtype": dtype,
        "input_scale": json.dumps(scale),
        "photo_fit": "null",
        "columns": json.dumps(columns or {}),
    }
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(about)})
    return file


def test_it_predicts_photos_and_says_what_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = exported(tmp_path / "model.pt2", ("cat", "dog"), (3, 8, 8), "uint8", 255.0)
    model = PortableModel(file)
    assert (model.about.model, model.about.version) == ("pets", "3")
    values = np.random.default_rng(0).integers(256, size=(3, 8, 8)).astype(np.uint8)
    input_as_photo(values, 255.0).save(tmp_path / "a.png")
    expected = torch.export.load(file).module()(torch.from_numpy(values[None]))["probabilities"][0].tolist()
    main(str(file), str(tmp_path / "a.png"))
    (found,) = json.loads(capsys.readouterr().out)
    assert found == pytest.approx({"cat": expected[0], "dog": expected[1]})
    with pytest.raises(InputError, match="cannot be read as a photo: it is no picture of these formats"):
        model.read(str(file))
    with pytest.raises(SystemExit, match=r"^error: the file cannot be read as a photo"):
        main(str(file), str(tmp_path / "gone.png"))


def test_it_predicts_a_value_from_numbers(tmp_path: Path) -> None:
    model = PortableModel(exported(tmp_path / "model.pt2", (), (2,), "float32", 1.0))
    value = model.predict(model.read(" 0.5; -1.5\n"))
    torch.manual_seed(0)
    with torch.inference_mode():
        assert value == pytest.approx(nn.Linear(2, 1)(torch.tensor([0.5, -1.5])).item())


def test_it_predicts_a_table_s_row_and_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    columns = {"area": "number", "zone": ["north", "south"]}
    model = PortableModel(exported(tmp_path / "model.pt2", (), (2,), "float32", 1.0, columns))
    values = model.read({"zone": "south", "area": 0.5})
    assert values.tolist() == [0.5, 1.0]
    assert isinstance(model.predict(values), float)
    with pytest.raises(InputError, match="there is no value for area, zone"):
        model.predict(model.read({"area": None}))
    with pytest.raises(InputError, match="'west' is no category of the column 'zone'; it has north, south"):
        model.read({"zone": "west"})


@pytest.mark.parametrize(
    ("text", "read"), [("", 0), ("1", 1), ("1, 2, 3", 3), ("1 nan", 1), ("1e39 2", 1), ("1 two", 1)]
)
def test_numbers_that_are_missing_or_not_finite_are_told(text: str, read: int) -> None:
    with pytest.raises(InputError, match=f"give 2 numbers, such as 0.5; of what is there, {read} can be read"):
        numbers(text, 2)
