"""A batch without data through model and loss, before any work: the three most common errors, told in full.

    try_batch(model, objective, torch.empty(8, 3, 64, 64, device="meta"), targets)

Shape: which layer, what it is given, what it expects. Dtype: what the loss wants. (The device: `use_device`.) On the
`meta` device tensors have shapes and dtypes and no memory, so this takes milliseconds, however large the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from learn.errors import BatchError
from learn.objective import Objective


def try_batch(model: nn.Module, objective: Objective, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """inputs (B, *shape) and targets, as a batch will be; only their shapes and dtypes are looked at.

    Raises BatchError. The model, on whatever device, and the random generators stay as they are.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if problem := _dtype_problem(objective, tensors, inputs, targets):
        raise BatchError(problem)
    entered: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def note(name: str) -> Any:
        return lambda module, args: entered.append((name, module, tuple(getattr(args[0], "shape", ())) if args else ()))

    hooks = [m.register_forward_pre_hook(note(n)) for n, m in model.named_modules() if not list(m.children()) and n]
    try:
        # torch warns where it broadcasts
        with warnings.catch_warnings(action="error", category=UserWarning), torch.random.fork_rng(devices=[]):
            on_meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
            logits = torch.func.functional_call(model, on_meta, (inputs.to("meta"),))
    except Exception as error:  # whatever a user's model raises
        raise BatchError(_shape_problem(entered, tuple(inputs.shape[1:]), error)) from error
    finally:
        for hook in hooks:
            hook.remove()
    if logits.shape != (len(inputs), objective.output_size):
        raise BatchError(
            f"model gives {tuple(logits.shape[1:])} a sample; {_name(objective)} wants ({objective.output_size},)"
        )
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):
            objective(logits, targets.to("meta"))
    except Exception as error:  # each loss of torch has its own
        raise BatchError(f"loss: {_first_line(error)}") from error


def batch_size_that_fits(peak: Callable[[int], int], free: int) -> int:
    """The largest batch size that would likely fit into so many bytes; 0: not even one sample.

    peak: bytes that a step of training on so many samples takes at its height, which grows evenly with their number.
    """
    two, four = peak(2), peak(4)
    each = max(1, (four - two) // 2)
    return max(0, int((SAFETY * free - (two - 2 * each)) // each))


SAFETY = 0.9  # of the memory; the rest is lost between blocks of unlike sizes


def _name(objective: Objective) -> str:
    return type(objective.loss).__name__


def _dtype_problem(
    objective: Objective, tensors: dict[str, torch.Tensor], inputs: torch.Tensor, targets: torch.Tensor
) -> str | None:
    floats = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if floats and inputs.dtype not in floats:
        wanted = ", ".join(sorted(map(_short, floats)))
        return (
            f"dtype: the inputs are {_short(inputs.dtype)}, the model's parameters {wanted}: read() must give {wanted}"
        )
    if objective.classes and not objective.binary and targets.dtype != torch.int64:
        return (
            f"dtype: the targets are {_short(targets.dtype)}; {_name(objective)} wants the indices of the classes in "
            "int64: in the dataset's read(), targets.astype(np.int64)"
        )
    if not objective.classes and not targets.is_floating_point():
        return (
            f"dtype: the targets are {_short(targets.dtype)}; {_name(objective)} wants floats: in the dataset's "
            "read(), targets.astype(np.float32)"
        )
    return None


def _shape_problem(
    entered: list[tuple[str, nn.Module, tuple[int, ...]]], shape: tuple[int, ...], error: Exception
) -> str:
    reason = f"shape: the model does not take inputs of shape {shape}: {_first_line(error)}"
    if not entered:
        return reason
    name, layer, given = entered[-1]
    where = f"shape: with inputs of shape {shape}, layer {name} {layer} is given {('B', *given[1:])}".replace("'", "")
    if isinstance(layer, nn.Linear) and given[-1:] != (layer.in_features,):
        return f"{where} and expects {layer.in_features} features: set its in_features to {given[-1]}"
    channels = getattr(layer, "in_channels", getattr(layer, "num_features", None))
    if channels and len(given) > 1 and given[1] != channels:
        return f"{where} and expects {channels} channels: set its number of channels to {given[1]}"
    return f"{where}: {_first_line(error)}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
