"""Runs one batch on the meta device to find shape and dtype errors before training.

    try_batches(model, criterion, *training.batch(slice(0, 2)), samples=len(training), batch_size=32)

The messages name the layer, what it is given and what it expects, or the dtype that the loss needs. (`use_device`
checks the device.) On the `meta` device tensors have a shape and a dtype but no memory, so this takes milliseconds even
for a large model. Only a model that looks at values is given two real samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from learn.errors import BatchError
from learn.training.criterion import Criterion


class NeedsDataError(BatchError):
    """The model looks at values, which tensors on the meta device do not have."""


def try_batches(
    model: nn.Module,
    criterion: Criterion,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    samples: int,
    batch_size: int | None,
) -> None:
    """Checks the batches of an epoch: a full one, and the last one if it is shorter or has only one sample.

    Args:
        model: The model to check; it stays as it is.
        criterion: The loss.
        inputs: (B, *shape), a few prepared samples.
        targets: The targets of these samples.
        samples: Number of samples in an epoch.
        batch_size: Number of samples in a batch; None for all samples at once.

    Raises:
        BatchError: Model, loss and data do not fit each other, or the model does not take the last batch.
    """
    size = min(batch_size or samples, samples)
    last = samples % size or size
    try_batch(model, criterion, inputs, targets, max(size, 2))
    if 1 < last == size:
        return
    try:
        try_batch(model, criterion, inputs, targets, last)
    except NeedsDataError:
        raise
    except BatchError as error:
        reason = str(error).removeprefix("shape: ")
        others = (other for step in range(1, samples) for other in (size - step, size + step) if other > 1)
        other = next((o for o in others if samples % o not in (1, last)), None)
        advice = f"set batch_size to {other}, which leaves none" if other else "give the train part more samples"
        raise BatchError(
            f"batch_size is {batch_size or 'full'}: of {samples:,} samples for training it leaves a batch of {last}, "
            f"which the model does not take ({reason}); {advice}"
        ) from error


def try_batch(
    model: nn.Module,
    criterion: Criterion,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    samples: int | None = None,
) -> None:
    """Runs one batch without data through model and loss to find shape and dtype errors.

    A model that looks at values (`if x.mean() > 0`) cannot run without data and gets the given samples instead. The
    model and the random generators stay as they are.

    Args:
        model: The model to check.
        criterion: The loss.
        inputs: (B, *shape), a few prepared samples on the model's device.
        targets: The targets of these samples, on the model's device.
        samples: Number of samples in the batch; None for B.

    Raises:
        BatchError: Model, loss and data do not fit each other.
        NeedsDataError: The model looks at values, and the model or the given samples are on the meta device.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if problem := _dtype_problem(criterion, tensors, inputs, targets):
        raise BatchError(problem)
    samples = samples or len(inputs)
    without_data = [torch.empty((samples, *t.shape[1:]), dtype=t.dtype, device="meta") for t in (inputs, targets)]
    on_meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    try:
        _run(model, on_meta, criterion.to("meta"), *without_data)
    except BatchError as error:
        if not needs_data(error):
            raise
        if inputs.is_meta or any(tensor.is_meta for tensor in tensors.values()):
            raise NeedsDataError(str(error)) from error
        copies = {name: tensor.clone() for name, tensor in model.named_buffers()}  # BatchNorm changes its buffers
        _run(model, copies, criterion, inputs[:samples], targets[:samples])


def why_not_exported(model: nn.Module, inputs: torch.Tensor) -> str | None:
    """Returns why torch.export cannot make a graph of a model that looks at values; None for every other model.

    Many models that look at values can be exported; for these it returns None too.

    Args:
        model: The model to export.
        inputs: (B, *shape), prepared samples on the model's device.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    on_meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.func.functional_call(model, on_meta, (inputs.to("meta"),))
    except Exception as error:
        if not needs_data(error):
            return None
    else:
        return None
    try:
        torch.export.export(model, (inputs,))
    except Exception as error:  # torch.export raises many kinds
        return _first_line(error)
    return None


def needs_data(error: BaseException | None) -> bool:
    """Returns whether an operation failed because it ran on the meta device, which torch's message then names."""
    return error is not None and ("meta" in str(error).lower() or needs_data(error.__cause__))


def _run(
    model: nn.Module,
    tensors: dict[str, torch.Tensor],
    criterion: Criterion,
    inputs: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    """Calls the model, with these tensors in place of its own, and the loss; raises BatchError if they do not fit."""
    entered: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def note(name: str) -> Any:
        return lambda module, args: entered.append((name, module, tuple(getattr(args[0], "shape", ())) if args else ()))

    hooks = [m.register_forward_pre_hook(note(n)) for n, m in model.named_modules() if not list(m.children()) and n]
    devices = [inputs.device] if inputs.is_cuda else []
    try:
        # torch warns if a loss broadcasts its arguments
        with warnings.catch_warnings(action="error", category=UserWarning), torch.random.fork_rng(devices=devices):
            logits = torch.func.functional_call(model, tensors, (inputs,))
    except Exception as error:  # a user's model may raise anything
        raise BatchError(_shape_problem(entered, tuple(inputs.shape[1:]), error)) from error
    finally:
        for hook in hooks:
            hook.remove()
    if logits.shape != (len(inputs), criterion.output_size):
        raise BatchError(
            f"model gives {tuple(logits.shape[1:])} a sample; {_name(criterion)} wants ({criterion.output_size},)"
        )
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):
            criterion(logits, targets)
    except Exception as error:  # each loss of torch raises its own errors
        raise BatchError(f"loss: {_first_line(error)}") from error


def largest_batch(step: Callable[[int], object], too_large: int) -> int:
    """Halves a batch size that is too large until a step works, and returns it; 0 if none works.

    Args:
        step: Trains once on this many samples; any exception means that they are too many.
        too_large: The batch size that does not fit into memory.
    """
    samples = too_large // 2
    while samples:
        try:
            step(samples)
        except Exception:  # out of memory again, or a layer that cannot take a batch of one sample
            samples //= 2
        else:
            break
    return samples


def _name(criterion: Criterion) -> str:
    return type(criterion.loss).__name__


def _dtype_problem(
    criterion: Criterion, tensors: dict[str, torch.Tensor], inputs: torch.Tensor, targets: torch.Tensor
) -> str | None:
    floats = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if floats and inputs.dtype not in floats:
        wanted = ", ".join(sorted(map(_short, floats)))
        return (
            f"dtype: the inputs are {_short(inputs.dtype)}, the model's parameters {wanted}: read() must give {wanted}"
        )
    if criterion.classes and not criterion.binary and targets.dtype != torch.int64:
        return (
            f"dtype: the targets are {_short(targets.dtype)}; {_name(criterion)} wants the indices of the classes in "
            "int64: in the dataset's read(), targets.astype(np.int64)"
        )
    if not criterion.classes and not targets.is_floating_point():
        return (
            f"dtype: the targets are {_short(targets.dtype)}; {_name(criterion)} wants floats: in the dataset's "
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
