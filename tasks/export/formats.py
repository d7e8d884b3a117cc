"""The formats that a registered graph can be written in; to add one, write two functions and an entry in FORMATS."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learn.portable import loading_graphs
from tasks.export.metadata import FILE, as_text, metadata
from tasks.export.onnx_file import load_onnx, refuse_without_onnx, write_int8, write_onnx
from tasks.tracking.graphs import MODEL, RegisteredGraph

if TYPE_CHECKING:
    import torch

Graph = Callable[["torch.Tensor"], dict[str, "torch.Tensor"]]  # maps inputs (N, *shape) as the registered graph does


@dataclass(frozen=True)
class Format:
    """How a registered graph is written as a file, and how that file is read again."""

    suffix: str
    write: Callable[[RegisteredGraph, Path], None]
    load: Callable[[RegisteredGraph, Path], Graph]
    is_exact: bool = True  # whether the file must predict what the registered graph predicts
    prepare: Callable[[], None] = lambda: None  # raises ExportError if a package is missing
    remark: str = ""  # what a user of such a file should know


def write_pt2(graph: RegisteredGraph, file: Path) -> None:
    """Writes the graph itself, in the format of torch.export."""
    import torch

    torch.export.save(graph.program, file, extra_files={FILE: as_text(graph)})


def load_pt2(graph: RegisteredGraph, file: Path) -> Graph:
    """Reads a file of torch.export."""
    import torch

    with loading_graphs():
        return torch.export.load(file).module()


def write_torchscript(graph: RegisteredGraph, file: Path) -> None:
    """Writes the graph as TorchScript, which programs in C++ can run."""
    import torch

    with _without_warnings():
        torch.jit.save(torch.jit.script(_scriptable(graph)), file, _extra_files={FILE: as_text(graph)})


def _scriptable(graph: RegisteredGraph) -> torch.fx.GraphModule:
    """Returns the graph in code that torch.jit.script takes; torch.jit.trace would take the batch size for a constant.

    It names operators without their overloads, asks for sizes as Python does, and returns a dict without pytree.
    """
    import torch

    checked = graph.program.module(check_guards=False)
    nodes = checked.graph
    for node in nodes.nodes:
        if node.target is torch.ops.aten.sym_size.int:
            node.op, node.target = "call_method", "size"
        elif isinstance(node.target, torch._ops.OpOverload):
            node.target = node.target.overloadpacket
    output = nodes.output_node()
    given: Any = output.args[0]
    output.args = (dict(zip(graph.outputs, given, strict=True)),)
    nodes.set_codegen(torch.fx.graph.CodeGen())
    return torch.fx.GraphModule(checked, nodes)  # without the hook that checks the shapes of inputs


def load_torchscript(graph: RegisteredGraph, file: Path) -> Graph:
    """Reads a file of TorchScript."""
    import torch

    with _without_warnings():
        return torch.jit.load(file)


def _without_warnings() -> AbstractContextManager[object]:
    """Silences torch's warnings: TorchScript is deprecated, which the format's remark says once."""
    return warnings.catch_warnings(action="ignore")


def write_safetensors(graph: RegisteredGraph, file: Path) -> None:
    """Writes the weights alone, by their names in the model."""
    from safetensors.torch import save_file

    weights = graph.program.state_dict
    # Clones, for two names of one tensor cannot be written.
    save_file({_short(name): weights[name].detach().clone().contiguous() for name in weights}, file, metadata(graph))


def load_safetensors(graph: RegisteredGraph, file: Path) -> Graph:
    """Returns the registered graph with the weights of a file."""
    from safetensors.torch import load_file

    weights, module = load_file(file), graph.program.module()
    named = {name: weights[_short(name)] for name in graph.program.state_dict}
    module.load_state_dict(named, assign=True)  # not copied into the registered graph's own tensors
    return module


def _short(name: str) -> str:
    """Returns the name of a weight as it is in the model's own state_dict."""
    return name.removeprefix(MODEL)


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", write_onnx, load_onnx, prepare=refuse_without_onnx),
    "pt2": Format(".pt2", write_pt2, load_pt2),
    "torchscript": Format(
        ".torchscript",
        write_torchscript,
        load_torchscript,
        remark="PyTorch has deprecated TorchScript; for new programs take onnx or pt2",
    ),
    "safetensors": Format(
        ".safetensors", write_safetensors, load_safetensors, remark="these are the weights, without the graph"
    ),
}
INT8: dict[str, Format] = {
    "onnx": Format(".onnx", write_int8, load_onnx, is_exact=False, prepare=refuse_without_onnx),
}  # the same with --int8
