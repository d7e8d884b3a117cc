"""Writes a registered model as a Hugging Face Space: app.py, a page made with Gradio, and all that it needs."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

import learn
from learn.errors import ExportError
from learn.portable import input_as_photo, takes_photos
from tasks.export.check import TOLERANCE
from tasks.export.formats import write_pt2
from tasks.tracking.cards import FENCE, read_card
from tasks.tracking.graphs import RegisteredGraph, load_graph
from tasks.tracking.loading import ModelMetadata
from tasks.tracking.names import Store

APP = Path(__file__).with_name("app.py")
CODE = (
    "__init__.py",
    "errors.py",
    "portable.py",
    "data/__init__.py",
    "data/photos/__init__.py",
    "data/photos/decode.py",
)  # what the app needs of learn/
MODEL = "model.pt2"
GRADIO, PILLOW = "6.31.0", "12.3.0"  # the versions that the tests pass with; Gradio takes no later Pillow yet
WITHOUT_CUDA = "https://download.pytorch.org/whl/cpu"


def write_space(store: Store, model: str, folder: Path) -> str:
    """Writes the files of a Space and checks that its code predicts what the registered graph predicts.

    Args:
        store: The store.
        model: NAME@ALIAS or NAME/VERSION.
        folder: A new folder.

    Returns:
        What was compared, in words.

    Raises:
        ExportError: The model takes neither photos nor a row of numbers or cells, or the Space predicts something else.
        TrackingError: There is no such model, it cannot be loaded, or it does not take raw inputs.
    """
    graph = load_graph(store, model)
    _refuse_other_inputs(graph.about)
    write_pt2(graph, folder / MODEL)
    _copy_code(folder)
    _write_examples(graph, folder / "examples")
    (folder / "requirements.txt").write_text(requirements(), encoding="utf-8")
    card = read_card(store, f"{graph.name}/{graph.version}")
    (folder / "README.md").write_text(_front_matter(graph) + (card or f"# {graph.name}") + "\n", encoding="utf-8")
    _check(graph, folder)
    return f"the app predicts what {graph.title} predicts for the {len(graph.example)} examples"


def _refuse_other_inputs(about: ModelMetadata) -> None:
    """Raises ExportError unless inputs are photos, a row of numbers, or a table's."""
    numbers = len(about.shape) == 1 and np.issubdtype(about.dtype, np.floating)
    if not (numbers or takes_photos(about.shape)):
        raise ExportError(
            f"its inputs are {about.shape} {about.dtype}; a Space takes photos, (3, N, N) or (1, N, N), or a row of "
            "floating-point numbers, (N); next: --format docker, which takes all inputs"
        )


def _copy_code(folder: Path) -> None:
    """Copies the app and the modules of learn/ that it imports."""
    shutil.copyfile(APP, folder / APP.name)
    for name in CODE:
        file = folder / "learn" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(str(learn.__file__)).parent / name, file)


def _write_examples(graph: RegisteredGraph, folder: Path) -> None:
    """Writes samples of the test part as pictures, as texts with numbers, or as rows of a table."""
    folder.mkdir()
    for number, values in enumerate(graph.example.numpy(), 1):
        file = folder / f"{number:02}"
        if takes_photos(graph.about.shape):
            input_as_photo(values, graph.about.scale, graph.about.fit).save(file.with_suffix(".png"))
        elif graph.about.columns:
            cells = map(_cell, values, graph.about.columns.values())
            text = json.dumps(dict(zip(graph.about.columns, cells, strict=True)), ensure_ascii=False)
            file.with_suffix(".json").write_text(text, encoding="utf-8")
        else:
            file.with_suffix(".txt").write_text(", ".join(map(str, values)), encoding="utf-8")


def _cell(value: np.floating, kind: str | tuple[str, ...]) -> float | str | None:
    """Returns a table's cell from the number that the graph takes; the shortest that gives the same float32."""
    if np.isnan(value):
        return None
    return float(str(value)) if kind == "number" else kind[int(value)]


def requirements() -> str:
    """Returns the content of requirements.txt."""
    versions = {"gradio": GRADIO, "pillow": PILLOW, "torch": version("torch"), "numpy": version("numpy")}
    pinned = (f"{name}=={number.partition('+')[0]}\n" for name, number in versions.items())
    return f"--extra-index-url {WITHOUT_CUDA}\n" + "".join(pinned)


def _front_matter(graph: RegisteredGraph) -> str:
    """Returns what tells Hugging Face how to start the Space; JSON is YAML."""
    values = {
        "title": graph.name,
        "emoji": "🔎",
        "colorFrom": "blue",
        "colorTo": "green",
        "sdk": "gradio",
        "sdk_version": GRADIO,
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "app_file": APP.name,
        "pinned": False,
        "tags": ["trackway"],
    }
    return FENCE + "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()) + FENCE


def _check(graph: RegisteredGraph, folder: Path) -> None:
    """Lets the Space's code predict its examples in a process of its own, and raises ExportError if it differs."""
    files = sorted((folder / "examples").iterdir())
    photos = takes_photos(graph.about.shape)
    given = [str(file.relative_to(folder)) if photos else file.read_text(encoding="utf-8") for file in files]
    command = [sys.executable, "-B", "-m", "learn.portable", MODEL, *given]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExportError(f"the Space's code fails: {' '.join(done.stderr.split())[-300:]}")
    import torch

    with torch.inference_mode():
        expected = graph.program.module()(graph.example)
    classes = graph.about.classes
    found = [list(each.values()) if classes else [each] for each in json.loads(done.stdout)]
    if not np.allclose(found, expected["probabilities" if classes else "prediction"], rtol=TOLERANCE, atol=TOLERANCE):
        raise ExportError("the Space's code does not predict its examples as the registered model does")
