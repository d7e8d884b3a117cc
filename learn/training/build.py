"""Builds a model, loss, optimizer or scheduler from its name and arguments in params.yaml.

    build_optimizer("SGD", {"lr": 0.1, "momentum": 0.9}, model)

Losses, optimizers and schedulers have their torch names and take any of torch's arguments. A name or an argument that
does not fit raises a BuildError, which names the key and what is allowed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from learn.errors import ArgumentError, did_you_mean
from learn.models import MODELS
from learn.training.criterion import Criterion


class BuildError(ValueError):
    """A name or an argument in params.yaml does not fit.

    Args:
        key: The argument below the section in params.yaml, or `name`; "" for the section as a whole.
        message: What follows the key in the message for the user, such as `is missing; ...`.
    """

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        super().__init__(message)


def _public(module: Any, base: type) -> dict[str, type]:
    """Returns the public subclasses of a base in a torch module, which params.yaml can name."""
    return {
        name: cls
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, base) and cls is not base and not name.startswith("_")
    }


def losses() -> dict[str, type[nn.Module]]:
    """Returns the losses of torch.nn by name."""
    return {name: cls for name, cls in _public(nn, nn.Module).items() if name.endswith("Loss")}


def optimizers() -> dict[str, type[Optimizer]]:
    """Returns the optimizers of torch.optim by name."""
    return _public(torch.optim, Optimizer)


def schedulers() -> dict[str, type]:
    """Returns the schedulers of torch.optim.lr_scheduler by name."""
    return _public(lr_scheduler, lr_scheduler.LRScheduler)


def build_model(name: str, arguments: dict[str, Any], input_shape: tuple[int, ...], output_size: int) -> nn.Module:
    """Builds a model from inputs (N, *input_shape) to logits (N, output_size); torch's generator draws its weights."""
    return _call(MODELS, name, arguments, input_shape, output_size)


def build_loss(name: str, arguments: dict[str, Any], classes: tuple[str, ...]) -> Criterion:
    """Builds a loss of torch.nn for data with these classes; without classes, for regression.

    An argument that is a list (weight: [1, 2]) becomes a tensor.
    """
    given = {
        key: _tensor(key, value) if isinstance(value, list) or (key in WEIGHTS and value is not None) else value
        for key, value in arguments.items()
    }
    loss = _call(losses(), name, given)
    if getattr(loss, "reduction", "mean") == "none":
        raise BuildError("reduction", "is none; it must be mean or sum, one number a batch")
    criterion = Criterion(loss, classes)
    for key in WEIGHTS if criterion.binary else ():
        if isinstance(arguments.get(key), list) and len(arguments[key]) != 1:
            raise BuildError(key, f"is {arguments[key]}; a binary loss has one logit, so it must be one number")
    return criterion


WEIGHTS = ("weight", "pos_weight")  # the arguments of losses that are tensors


def _tensor(key: str, value: Any) -> torch.Tensor:
    try:
        return torch.tensor(value, dtype=torch.float32)
    except (TypeError, ValueError):
        raise BuildError(key, f"is {value}; it must be a list of numbers") from None


def build_optimizer(name: str, arguments: dict[str, Any], model: nn.Module) -> Optimizer:
    """Builds an optimizer of torch.optim for all parameters of the model."""
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    return _call(optimizers(), name, tuples, model.parameters())


def build_scheduler(name: str, arguments: dict[str, Any], optimizer: Optimizer) -> Any:
    """Builds a scheduler of torch.optim.lr_scheduler; training steps it once per epoch."""
    return _call(schedulers(), name, arguments, optimizer)


def check_arguments(known: dict[str, type], name: str, arguments: Iterable[str], given: int) -> None:
    """Checks a name and its arguments without building anything.

    Args:
        known: Name → class.
        name: The name in params.yaml.
        arguments: Names of the arguments in params.yaml.
        given: Number of leading parameters of the class that the program itself fills in.

    Raises:
        BuildError: The name is unknown, or an argument is unknown or missing.
    """
    if name not in known:
        raise BuildError("name", f"is {name}; it must be one of {', '.join(sorted(known))}{did_you_mean(name, known)}")
    parameters = list(inspect.signature(known[name]).parameters.values())[given:]
    allowed = [p.name for p in parameters]
    for argument in arguments:
        if argument not in allowed:
            raise BuildError(
                argument,
                f"is not an argument of {name}; allowed: {', '.join(allowed) or 'none'}"
                f"{did_you_mean(argument, allowed)}",
            )
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in arguments]
    if missing:
        raise BuildError(missing[0], f"is missing; {name} needs {', '.join(missing)}")


def _call(known: dict[str, Any], name: str, arguments: dict[str, Any], *given: Any) -> Any:
    check_arguments(known, name, arguments, len(given))
    build: Callable[..., Any] = known[name]
    try:
        return build(*given, **arguments)
    except ArgumentError as error:
        raise BuildError(error.key, str(error)) from error
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise BuildError("", f"{name} refuses {arguments or 'this'}: {error}") from error
