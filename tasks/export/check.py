"""Compares what an exported file predicts with what the registered graph predicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from learn.data.transformed import read_raw
from learn.errors import ExportError
from tasks.export.formats import Graph
from tasks.tracking.graphs import RegisteredGraph
from tasks.tracking.tags import TEST_DATA
from tasks.workspace.files import samples_md5
from tasks.workspace.paths import evaluation_folder, training_folder

if TYPE_CHECKING:
    import torch

Outputs = dict[str, np.ndarray]  # by the graph's names: output, prediction and, with classes, probabilities
AT_A_TIME = 100  # samples that are predicted together
TOLERANCE = 1e-4  # rounding: share of the largest number among a model's outputs, and difference of probabilities


@dataclass(frozen=True)
class Samples:
    """The samples with which a file is compared."""

    inputs: torch.Tensor  # (N, *shape), as the graph takes them
    targets: np.ndarray | None  # (N,) or (N, 1); None if they are not known
    what: str
    why: str  # why they are not the test part; "" if they are


def samples_for(graph: RegisteredGraph) -> Samples:
    """Returns the test part if it is here as the version was measured with, otherwise the graph's own example."""
    import torch

    from learn.training.splits import load_split

    folder = _folder(graph.name)
    if why := _why_not(graph, folder):
        return Samples(graph.example, None, f"the {len(graph.example)} samples that are kept with it", why)
    split = load_split(folder, "test")
    inputs, targets = split.inputs, split.targets.numpy()
    if graph.about.columns:  # a table's own, of which the features are made
        inputs = torch.from_numpy(read_raw(evaluation_folder(graph.name), "test"))
    return Samples(inputs, targets, f"the {len(split):,} samples of the test part", "")


def _folder(dataset: str) -> Path:
    """Returns the folder that has the test part: TRAINING if there is no validation part."""
    folders = (evaluation_folder(dataset), training_folder(dataset))
    return next((folder for folder in folders if (folder / "test-inputs.npy").is_file()), folders[0])


def _why_not(graph: RegisteredGraph, folder: Path) -> str:
    """Returns why the test part cannot be used; "" if it can."""
    if not (folder / "test-inputs.npy").is_file():
        return f"the test part is not in {folder.parent}; next: dvc pull, or dvc repro transform@{graph.name}"
    if TEST_DATA not in graph.tags:
        return f"{graph.title} does not say which test part measured it"
    if samples_md5(folder, "test") != graph.tags[TEST_DATA]:
        return f"the test part in {folder.parent} is not the one that {graph.title} was measured with"
    return ""


def outputs_of(graph: Graph, inputs: torch.Tensor) -> Outputs:
    """Computes the outputs for all samples: the first one alone, then AT_A_TIME together.

    Args:
        graph: The registered graph, or a file's.
        inputs: (N, *shape).
    """
    import torch

    places = [slice(0, 1), *(slice(at, at + AT_A_TIME) for at in range(1, len(inputs), AT_A_TIME))]
    with torch.inference_mode():
        found = [graph(inputs[place]) for place in places]
    return {name: torch.cat([each[name] for each in found]).numpy() for name in found[0]}


def refuse_broken(found: Outputs, expected: Outputs) -> None:
    """Raises ExportError if outputs lack one, have another shape, or are NaN."""
    for name, numbers in expected.items():
        shape = found[name].shape if name in found else None
        if shape != numbers.shape:
            raise ExportError(f"its {name} has the shape {shape}, the registered model's {numbers.shape}")
        if wrong := np.isnan(found[name]).reshape(len(numbers), -1).any(1).sum():
            raise ExportError(f"its {name} is NaN for {wrong:,} of {len(numbers):,} samples")


def refuse_unequal(found: Outputs, expected: Outputs) -> None:
    """Raises ExportError if outputs differ by more than rounding explains, or a sample gets another class.

    Another class counts only if it is less likely than the registered graph's own.
    """
    off, largest = np.abs(found["output"] - expected["output"]).max(), np.abs(expected["output"]).max()
    if not off <= TOLERANCE * largest:  # NaN fails too
        raise ExportError(f"its output is off by {off:.2g}, where the registered model's goes up to {largest:.2g}")
    if "probabilities" in expected:
        rows = np.arange(len(expected["prediction"]))
        own, other = (expected["probabilities"][rows, each["prediction"]] for each in (expected, found))
        if wrong := (own - other > TOLERANCE).sum():
            raise ExportError(f"{wrong:,} of {len(rows):,} samples get another class than from the registered model")


def difference(found: Outputs, expected: Outputs) -> str:
    """Returns what differs between the outputs of a file and of the registered graph, in words."""
    off = np.abs(found["output"] - expected["output"]).max()
    text = f"outputs differ by {off:.1g} at most" if off else "outputs are equal"
    if "probabilities" not in expected:
        return text
    others, samples = (found["prediction"] != expected["prediction"]).sum(), len(expected["prediction"])
    return f"{others:,} of {samples:,} get another class, {text}" if others else f"all get the same class, {text}"
