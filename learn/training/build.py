"""From a name and arguments in params.yaml to a model, loss, optimizer or scheduler.

    build_optimizer("SGD", {"lr": 0.1, "momentum": 0.9}, model)

Losses, optimizers and schedulers go by their torch names and take any of their arguments. What does not fit raises a
BuildError that says which key, and what is allowed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from learn.errors import did_you_mean
from learn.models import MODELS
from learn.training.criterion import Criterion


class BuildError(ValueError):
    """key: the argument below the section in params.yaml, `name` for the name; "" for the section as a whole."""

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        super().__init__(message)


def _public(module: Any, base: type) -> dict[str, type]:
    """The classes of a torch module that params.yaml can name: public, and more than the base itself."""
    return {
        name: cls
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, base) and cls is not base and not name.startswith("_")
    }


def losses() -> dict[str, type[nn.Module]]:
    return {name: cls for name, cls in _public(nn, nn.Module).items() if name.endswith("Loss")}


def optimizers() -> dict[str, type[Optimizer]]:
    return _public(torch.optim, Optimizer)


def schedulers() -> dict[str, type]:
    return _public(lr_scheduler, lr_scheduler.LRScheduler)


def build_model(name: str, arguments: dict[str, Any], input_shape: tuple[int, ...], output_size: int) -> nn.Module:
    """A model for inputs (N, *input_shape) and logits (N, output_size), drawn from torch's generator."""
    return _call(MODELS, name, arguments, input_shape, output_size)


def build_loss(name: str, arguments: dict[str, Any], classes: tuple[str, ...]) -> Criterion:
    """A loss of torch.nn for data with these classes (none: regression). A list (weight: [1, 2]) becomes a tensor."""
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


WEIGHTS = ("weight", "pos_weight")  # the tensors among the arguments of losses


def _tensor(key: str, value: Any) -> torch.Tensor:
    try:
        return torch.tensor(value, dtype=torch.float32)
    except (TypeError, ValueError):
        raise BuildError(key, f"is {value}; it must be a list of numbers") from None


def build_optimizer(name: str, arguments: dict[str, Any], model: nn.Module) -> Optimizer:
    """An optimizer of torch.optim over all parameters of the model."""
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    return _call(optimizers(), name, tuples, model.parameters())


def build_scheduler(name: str, arguments: dict[str, Any], optimizer: Optimizer) -> Any:
    """A scheduler of torch.optim.lr_scheduler, stepped once an epoch."""
    return _call(schedulers(), name, arguments, optimizer)


def check_arguments(known: dict[str, type], name: str, arguments: Iterable[str], given: int) -> None:
    """Raises BuildError for a name that is not known and for arguments that are unknown or missing.

    given: how many leading parameters the program itself fills in.
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
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise BuildError("", f"{name} refuses {arguments or 'this'}: {error}") from error
