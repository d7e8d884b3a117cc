"""Writes a registered graph as ONNX, with weights of 32 or 8 bits, and runs such a file with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from learn.errors import ExportError
from tasks.export.metadata import metadata
from tasks.tracking.graphs import RegisteredGraph

if TYPE_CHECKING:
    import torch

NEEDED = ("onnx", "onnxscript", "onnxruntime")
INPUTS = "inputs"  # name of the input; the outputs have the names of the registered graph's
BATCH = "batch"  # name of the first dimension of all


def refuse_without_onnx() -> None:
    """Raises ExportError if a package that ONNX needs is not installed."""
    if missing := [name for name in NEEDED if not find_spec(name)]:
        raise ExportError(
            f"--format onnx needs {', '.join(missing)}, which is not installed; next: pip install 'trackway[onnx]'"
        )


def write_onnx(graph: RegisteredGraph, file: Path, more: dict[str, str] | None = None) -> None:
    """Writes the graph for batches of any size; the file's metadata has the names of the classes.

    Args:
        graph: The graph.
        file: The file.
        more: Metadata beyond what every file has.

    Raises:
        ExportError: It is larger than a file of this format can be.
    """
    import torch

    program = torch.onnx.export(
        graph.program, input_names=[INPUTS], output_names=graph.outputs, dynamic_shapes=[{0: BATCH}], verbose=False
    )
    assert program
    program.model.metadata_props.update(metadata(graph) | (more or {}))
    program.save(file)
    if [each.name for each in file.parent.iterdir()] != [file.name]:
        raise ExportError("the weights take more than the 2 GB that a file of ONNX can have; next: --format pt2")


def write_int8(graph: RegisteredGraph, file: Path) -> None:
    """Writes the graph with weights of eight bits; activations are quantised while it runs."""
    import onnx
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic

    in_float, prepared = file.with_suffix(".float.onnx"), file.with_suffix(".prepared.onnx")
    write_onnx(graph, in_float, {"quantization": "int8, dynamic"})
    quant_pre_process(in_float, prepared, skip_symbolic_shape=True)  # torch.onnx has told all shapes
    model = onnx.load(prepared)
    del model.graph.value_info[:]  # with torch 2.11 some of these shapes are those of before the preparation
    quantize_dynamic(model, file, weight_type=QuantType.QUInt8)  # ONNX Runtime convolves with no signed weights
    in_float.unlink()
    prepared.unlink()


def load_onnx(graph: RegisteredGraph, file: Path) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Returns a function that runs the file with ONNX Runtime, on as many threads as torch computes with."""
    import torch
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        found = session.run(names, {INPUTS: inputs.numpy()})
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    return run
