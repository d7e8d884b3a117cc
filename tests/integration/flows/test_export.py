"""`trackway export` on a finished project: its files predict what the state_dict of the champion predicts."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from learn.training.build import build_model
from tasks.tracking.graphs import load_graph
from tasks.tracking.names import Store
from tests.support.model_server import evaluated
from tests.support.pages import blocks
from tests.support.project import TRACKWAY, Project, shipped

TEST = "data/transformed/digits/evaluation/test-inputs.npy"


def test_the_champion_as_onnx_predicts_as_its_state_dict(
    by_flow: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the commands and the code of docs/export.md work."""
    shown = {}
    for line in blocks("sh", "docs/export.md")[0].splitlines():
        program, *arguments, file = shlex.split(line, comments=True)
        assert program == "trackway"
        shown[file] = by_flow.run(*TRACKWAY, *arguments, str(tmp_path / file)).stdout
    assert "digits on the 360 samples of the test part: all get the same class" in shown["digits.onnx"]
    assert "Warning" not in shown["digits.onnx"]
    for output in shown.values():
        assert " (9" in output, "the accuracy's interval"
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python", "docs/export.md")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, {})
    assert said.getvalue() == "['0', '1', '2', '3']\n"

    stored = np.load(by_flow.folder / TEST)
    session, in_bytes = (onnxruntime.InferenceSession(file) for file in shown)
    output, predictions = session.run(["output", "prediction"], {"inputs": stored})
    params = shipped()
    dataset, experiment = params.datasets["digits"], params.experiments["digits-cnn"]
    model = build_model(experiment.model.name, experiment.model.arguments, dataset.shape, 10)
    model.load_state_dict(torch.load(by_flow.folder / "models/digits-cnn/model.pt", weights_only=True))
    with torch.inference_mode():
        expected = model.eval()(torch.from_numpy(stored).float() / dataset.source.scale).numpy()
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)
    names = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    assert [names[index] for index in predictions] == evaluated(by_flow, "digits-cnn")
    (rounded,) = in_bytes.run(["prediction"], {"inputs": stored})
    assert (rounded == predictions).mean() > 0.95


def test_a_version_says_what_was_trained_and_a_missing_one_which_there_are(by_flow: Project, tmp_path: Path) -> None:
    graph = load_graph(Store(by_flow.tracking_uri), "line/1")
    assert (graph.name, graph.version, graph.about.classes) == ("line", "1", ())
    assert graph.architecture["name"] in ("line", "mlp")
    command = (*TRACKWAY, "export", "lines@champion", "--format", "pt2", "--out", str(tmp_path / "it.pt2"))
    done = by_flow.run(*command, check=False)
    assert done.returncode == 1
    assert "error: lines@champion is no registered model; there is blobs@champion, " in done.stdout
    assert not list(tmp_path.iterdir())
