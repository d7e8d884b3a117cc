"""A graph as a file of each format: it predicts what the model predicts, or there is no file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from torch import nn

from learn.data.transformed import Info
from learn.errors import ExportError, TrackingError
from learn.raw_inputs import RawInputs
from learn.training.build import build_loss, build_model
from tasks.export.check import Outputs, outputs_of, refuse_broken, refuse_unequal, samples_for
from tasks.export.command import export
from tasks.export.formats import FORMATS, INT8, Format
from tasks.export.one_file import Exported, write_checked
from tasks.tracking.graphs import RegisteredGraph
from tasks.tracking.loading import ModelMetadata
from tasks.tracking.tags import EXPERIMENT, TEST_DATA
from tasks.workspace.files import samples_md5
from tests.support.project import shipped

TEN = tuple("0123456789")
VIT = {"patch_size": 4, "embedding_size": 32, "heads": 4, "layers": 2, "mlp_size": 48}
# Model, arguments, shape of an input, loss, classes, scale
MODELS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], str, tuple[str, ...], float]] = {
    "photos": ("tiny_vgg", {"hidden_units": 6}, (3, 8, 8), "CrossEntropyLoss", ("a", "b", "c"), 255),
    "transformer": ("vit", VIT, (1, 8, 8), "CrossEntropyLoss", TEN, 16),
    "two classes": ("mlp", {"hidden_units": [8], "activation": "ReLU"}, (2,), "BCEWithLogitsLoss", ("no", "yes"), 1),
    "wide": ("mlp", {"hidden_units": [256, 256], "activation": "ReLU"}, (64,), "CrossEntropyLoss", TEN, 1),
    "numbers": ("mlp", {"hidden_units": [8], "activation": "Tanh"}, (3,), "L1Loss", (), 1),
}


def graph_of(name: str) -> tuple[RegisteredGraph, nn.Module]:
    """A graph as the evaluate stage registers it, and the model that it was made of."""
    architecture, arguments, shape, loss, classes, scale = MODELS[name]
    torch.manual_seed(0)
    criterion = build_loss(loss, {}, classes)
    model = RawInputs(build_model(architecture, arguments, shape, criterion.output_size), criterion, scale).eval()
    example = inputs_for(name, 4)
    program = torch.export.export(model, (torch.from_numpy(example),), dynamic_shapes=[{0: torch.export.Dim.AUTO}])
    about = ModelMetadata(loss, classes, shape, {}, str(example.dtype), scale)
    tags = {EXPERIMENT: f"{name}-first", TEST_DATA: "0"}
    return RegisteredGraph("things", "3", about, program, tags, {"name": architecture}, 1000), model


def inputs_for(name: str, samples: int) -> np.ndarray:
    """Inputs (samples, *shape) as the transform stage stores them."""
    _, _, shape, _, _, scale = MODELS[name]
    numbers = np.random.default_rng(samples).random((samples, *shape), np.float32) * scale
    return numbers.round().astype(np.uint8) if scale != 1 else numbers


def of_onnx(file: Path) -> dict[str, str]:
    return {each.key: each.value for each in onnx.load(file).metadata_props}


def of_pt2(file: Path) -> dict[str, str]:
    found = {"metadata.json": ""}
    torch.export.load(file, extra_files=found)
    return dict(json.loads(found["metadata.json"]))


def of_torchscript(file: Path) -> dict[str, str]:
    found = {"metadata.json": ""}
    torch.jit.load(file, _extra_files=found)
    return dict(json.loads(found["metadata.json"]))


def of_safetensors(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


SAID: dict[str, Callable[[Path], dict[str, str]]] = {
    "onnx": of_onnx, "pt2": of_pt2, "torchscript": of_torchscript, "safetensors": of_safetensors,
}  # fmt: skip


@pytest.mark.parametrize("name", ["photos", "transformer", "two classes", "numbers"])
def test_its_files_predict_batches_of_any_size_as_the_model_and_say_what_they_are(name: str, tmp_path: Path) -> None:
    graph, model = graph_of(name)
    for kind, chosen in FORMATS.items():
        file = tmp_path / f"it{chosen.suffix}"
        exported = written(graph, chosen, file)
        assert "with version 3 of things on the 4 samples that are kept with it: " in exported.remarks[0]
        assert [row.name for row in exported.rows] == ["registered", file.name]
        run = chosen.load(graph, file)
        for samples in (1, 2, 33):
            inputs = torch.from_numpy(inputs_for(name, samples))
            with torch.inference_mode():
                found, expected = run(inputs), model(inputs)
            assert found.keys() == expected.keys()
            for key, numbers in expected.items():
                torch.testing.assert_close(found[key], numbers, msg=f"{kind}: {key}")
        said = SAID[kind](file)
        assert tuple(json.loads(said["classes"])) == graph.about.classes
        assert tuple(json.loads(said["input_shape"])) == graph.about.shape
        assert json.loads(said["architecture"]) == graph.architecture
        told = [said[key] for key in ("model", "version", "experiment", "input_dtype", "loss")]
        assert told == ["things", "3", f"{name}-first", graph.about.dtype, graph.about.loss]
    with safe_open(tmp_path / "it.safetensors", "pt") as opened:
        assert set(opened.keys()) == set(model.get_submodule("model").state_dict())


def written(graph: RegisteredGraph, chosen: Format, file: Path) -> Exported:
    return write_checked(graph, chosen, file, samples_for(graph))


def test_eight_bits_are_smaller_and_said_to_differ(tmp_path: Path) -> None:
    graph, _ = graph_of("wide")
    sizes = []
    for chosen in (FORMATS["onnx"], INT8["onnx"]):
        exported = written(graph, chosen, tmp_path / "it.onnx")
        sizes.append(exported.rows[1].size)
    assert sizes[1] < sizes[0] / 2
    assert of_onnx(tmp_path / "it.onnx")["quantization"] == "int8, dynamic"
    assert re.search(r": (all get the same|\d of 4 get another) class, outputs differ by \d", exported.remarks[0])
    assert [file.name for file in tmp_path.iterdir()] == ["it.onnx"]


def test_the_test_part_is_used_if_it_is_that_of_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    graph, model = graph_of("two classes")
    assert samples_for(graph).why == (
        "the test part is not in data/transformed/things; next: dvc pull, or dvc repro transform@things"
    )
    folder = tmp_path / "data/transformed/things/training"
    folder.mkdir(parents=True)
    inputs = inputs_for("two classes", 230)
    with torch.inference_mode():
        targets = model(torch.from_numpy(inputs))["prediction"].numpy()
    targets[0] = 1 - targets[0]
    np.save(folder / "test-inputs.npy", inputs)
    np.save(folder / "test-targets.npy", targets)
    (folder / "info.json").write_text(Info((2,), ("no", "yes"), 1.0, {"test": 230}).to_json())
    other = samples_for(graph)
    assert (len(other.inputs), other.targets) == (4, None)
    assert other.why.endswith("is not the one that version 3 of things was measured with")
    assert samples_for(replace(graph, tags={})).why == "version 3 of things does not say which test part measured it"

    known = replace(graph, tags={TEST_DATA: samples_md5(folder, "test")})
    exported = written(known, FORMATS["pt2"], tmp_path / "it.pt2")
    assert exported.remarks[0].endswith("230 samples of the test part: all get the same class, outputs are equal")
    assert len(exported.remarks) == 1
    registered, file = exported.rows
    assert exported.metric == "accuracy"
    assert registered.score == file.score == 229 / 230
    assert file.interval
    assert file.interval.low < 229 / 230 < file.interval.high


def wrong_by(off: float) -> Format:
    """pt2, but read with an error in each output."""

    def load(graph: RegisteredGraph, file: Path) -> Any:
        run = FORMATS["pt2"].load(graph, file)
        return lambda inputs: {key: numbers + off for key, numbers in run(inputs).items()}

    return replace(FORMATS["pt2"], load=load)


def interrupted(graph: RegisteredGraph, file: Path) -> None:
    file.write_bytes(b"half")
    raise KeyboardInterrupt


def broken(graph: RegisteredGraph, file: Path) -> None:
    raise RuntimeError("no such\noperator")


def test_what_differs_fails_or_is_interrupted_leaves_the_file_of_before(tmp_path: Path) -> None:
    graph, _ = graph_of("numbers")
    file = tmp_path / "it.pt2"
    file.write_bytes(b"before")
    cases: list[tuple[Format, type[BaseException], str | None]] = [
        (wrong_by(1.0), ExportError, "it.pt2 is not written, for version 3 of things .*: its output is off by 1"),
        (wrong_by(np.nan), ExportError, "its output is NaN for 4 of 4 samples"),
        (replace(FORMATS["pt2"], write=broken), ExportError, "RuntimeError: no such operator"),
        (replace(FORMATS["pt2"], write=interrupted), KeyboardInterrupt, None),
    ]
    for chosen, error, why in cases:
        with pytest.raises(error, match=why):
            written(graph, chosen, file)
        assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("it.pt2", b"before")]
    with pytest.raises(ExportError, match=r"it\.pt2/it\.pt2, which cannot be written: .*it\.pt2: File exists"):
        written(graph, FORMATS["pt2"], file / "it.pt2")
    written(graph, wrong_by(1e-9), file)
    assert file.read_bytes() != b"before"


def outputs(logits: list[list[float]]) -> Outputs:
    output = torch.tensor(logits)
    found = {"output": output, "prediction": output.argmax(1), "probabilities": output.softmax(1)}
    return {key: numbers.numpy() for key, numbers in found.items()}


def test_rounding_may_decide_between_classes_that_are_equally_likely_and_nothing_more() -> None:
    tied = outputs([[1.0, 1.00001], [5.0, 0.0]])
    refuse_unequal(outputs([[1.00001, 1.0], [5.0, 0.0]]), tied)
    with pytest.raises(ExportError, match="1 of 2 samples get another class"):
        refuse_unequal(tied | {"prediction": np.array([1, 1])}, tied)
    with pytest.raises(ExportError, match=r"its output is off by 0\.01, where the registered model's goes up to 5"):
        refuse_unequal(outputs([[1.0, 1.01], [5.0, 0.0]]), tied)
    with pytest.raises(ExportError, match=re.escape("its output has the shape (1, 2), the registered model's (2, 2)")):
        refuse_broken(outputs([[1.0, 1.0]]), tied)
    with pytest.raises(ExportError, match="its probabilities has the shape None"):
        refuse_broken({key: tied[key] for key in ("output", "prediction")}, tied)


def test_what_cannot_be_asked_for_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = shipped()
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "full").mkdir()
    for name in ("file", "full/mine.txt"):
        (tmp_path / name).touch()
    cases = {
        ("onx", "it.onnx", False): "it must be onnx, pt2, torchscript, safetensors, space, docker; did you mean onnx?",
        ("pt2", "it.onnx", False): "with --format pt2 its name must end in .pt2",
        ("pt2", "it.pt2", True): "--int8 does not go with --format pt2; it goes with onnx",
        ("onnx", "folder.onnx", False): "a folder; give the name of a file in it",
        ("space", "file", False): "a file; with --format space it must be a folder",
        ("docker", "full", False): "a folder that --format docker did not write: it has mine.txt; next: name a new",
        ("space", "it", True): "--int8 does not go with --format space; it goes with onnx",
    }
    for (kind, name, int8), why in cases.items():
        with pytest.raises(ExportError, match=re.escape(why)):
            export(params, "digits@champion", kind, tmp_path / name, int8=int8)
    monkeypatch.setattr("tasks.export.onnx_file.NEEDED", ("onnx", "not_installed"))
    with pytest.raises(ExportError, match=r"not_installed, which is not installed; next: pip install .trackway\[onnx"):
        export(params, "digits@champion", "onnx", tmp_path / "it.onnx", int8=True)
    without = params.model_copy(update={"tracking": None})
    with pytest.raises(TrackingError, match=r"tracking is null in params\.yaml"):
        export(without, "digits@champion", "pt2", tmp_path / "it.pt2", int8=False)


def test_samples_are_predicted_one_alone_and_the_others_together() -> None:
    seen = []

    def run(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(len(inputs))
        return {"output": inputs}

    inputs = torch.from_numpy(inputs_for("numbers", 230))
    np.testing.assert_array_equal(outputs_of(run, inputs)["output"], inputs)
    assert seen == [1, 100, 100, 29]
