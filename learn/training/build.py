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
from learn.training.defaults import GROUPS, NO_DECAY, NoDecay
from learn.training.parameter_groups import Groups, parameter_groups, weight_decay_of


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


def build_optimizer(
    name: str,
    arguments: dict[str, Any],
    model: nn.Module,
    no_decay: NoDecay | None = NO_DECAY,
    groups: Groups | None = GROUPS,
) -> Optimizer:
    """Builds an optimizer of torch.optim for all parameters of the model.

    Args:
        name: The optimizer's name.
        arguments: Its arguments.
        model: The model.
        no_decay: Which parameters have no weight decay; None: all have it.
        groups: Parts of the model → arguments that are others for them; None: the whole model has the same.
    """
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    if no_decay is None and groups is None:
        return _call(optimizers(), name, tuples, model.parameters())
    check_arguments(optimizers(), name, arguments, 1)
    for part, own in (groups or {}).items():
        try:
            check_arguments(optimizers(), name, ["lr", *own], 1)
        except BuildError as error:
            raise BuildError(f"groups.{part}.{error.key}", str(error)) from error
    decay = weight_decay_of(optimizers()[name], arguments) if no_decay else None
    if decay == 0:
        advice = "give it one, such as weight_decay: 0.1, or take no_decay out"
        raise BuildError("no_decay", f"is {no_decay}, but {name} has no weight decay here; {advice}")
    try:
        return _call(optimizers(), name, tuples, parameter_groups(model, groups or {}, decay))
    except KeyError as error:
        part, parts = error.args[0], [part for part, _ in model.named_children()]
        raise BuildError(
            f"groups.{part}",
            f"is no part of the model, or lies in another group; its parts are {', '.join(parts)}, and the modules in "
            f"them{did_you_mean(part, parts)}",
        ) from error


def build_scheduler(name: str, arguments: dict[str, Any], optimizer: Optimizer) -> Any:
    """Builds a scheduler of torch.optim.lr_scheduler; SequentialLR's `schedulers` are built from their own names."""
    if name != "SequentialLR":
        return _call(schedulers(), name, arguments, optimizer)
    check_arguments(schedulers(), name, arguments, 1)
    if not isinstance(arguments["schedulers"], list):
        raise BuildError("schedulers", f"is {arguments['schedulers']}; it must be a list such as [{ONE_OF_SEVERAL}]")
    parts = [_one_of_several(number, each, optimizer) for number, each in enumerate(arguments["schedulers"])]
    try:
        return lr_scheduler.SequentialLR(optimizer, **arguments | {"schedulers": parts})
    except (TypeError, ValueError) as error:
        raise BuildError("", f"SequentialLR refuses milestones {arguments['milestones']}: {error}") from error


ONE_OF_SEVERAL = "{name: LinearLR, start_factor: 0.1, total_iters: 5}"


def _one_of_several(number: int, chosen: Any, optimizer: Optimizer) -> Any:
    """Builds one of the schedulers that follow one another."""
    key = f"schedulers.{number}"
    if not isinstance(chosen, dict) or "name" not in chosen:
        raise BuildError(key, f"is {chosen}; it must be a mapping with a name, such as {ONE_OF_SEVERAL}")
    arguments = {argument: value for argument, value in chosen.items() if argument != "name"}
    try:
        return build_scheduler(chosen["name"], arguments, optimizer)
    except BuildError as error:
        raise BuildError(".".join(filter(None, [key, error.key])), str(error)) from error


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
