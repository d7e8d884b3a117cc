"""Finds all mistakes in params.yaml that can be found before any work is done.

    params = check(Path("params.yaml"))

The other modules of `tasks/params/` check what the file alone can tell. Here torch adds the names and arguments of
models, losses, optimizers and schedulers, and a batch on the `meta` device (shapes without data) tells whether a model
fits its data.
"""

from __future__ import annotations

import inspect
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from learn.errors import BatchError, ParamsError
from learn.models import MODELS
from learn.training.augment import MIXES, Augmentation
from learn.training.batch_check import NeedsDataError, needs_data, try_batch, try_batches
from learn.training.build import (
    BuildError,
    build_loss,
    build_model,
    build_optimizer,
    build_scheduler,
    check_arguments,
    losses,
    optimizers,
    schedulers,
)
from learn.training.criterion import Criterion
from learn.training.fraction import chosen_samples
from tasks.params import PARAMS_FILE, PLATEAU, DatasetConfig, ExperimentConfig, Params, parse_params, read_yaml


def check(path: Path = PARAMS_FILE) -> Params:
    """Reads params.yaml and makes every check that needs no work.

    Raises:
        ParamsError: The file has mistakes; the text has a line for each.
    """
    return check_data(read_yaml(path), path)


def check_data(data: Any, path: Path) -> Params:
    """Makes the checks of `check` on data that was read from a file.

    Args:
        data: The content of params.yaml as plain data.
        path: The file, for messages.

    Raises:
        ParamsError: The data has mistakes; the text has a line for each.
    """
    params, problems = None, []
    try:
        params = parse_params(data, path)
    except ParamsError as error:
        problems = error.problems
    # What torch knows is checked on the plain data, so that all mistakes come out together.
    problems = problems + [f"experiments.{problem} ({path})" for problem in _torch_problems(data)]
    if params is None or problems:
        raise ParamsError(problems)
    return params


def _torch_problems(data: Any) -> Iterator[str]:
    """Yields a message for each unknown name or argument of an experiment; without any, what its batch check finds."""
    sections = [data.get(key) if isinstance(data, dict) else None for key in ("datasets", "experiments")]
    datasets, experiments = (section if isinstance(section, dict) else {} for section in sections)
    for name, experiment in experiments.items():
        problems = list(_name_problems(experiment))
        if not problems:
            try:
                parsed = ExperimentConfig.model_validate_json(json.dumps(experiment, default=str))
                dataset = DatasetConfig.model_validate_json(json.dumps(datasets.get(parsed.dataset), default=str))
            except ValidationError:
                continue  # reported already
            problems = list(filter(None, [_batch_check(parsed, dataset)]))
        yield from (f"{name}.{problem}" for problem in problems)


def _name_problems(experiment: Any) -> Iterator[str]:
    known: dict[str, tuple[dict[str, Any], int]] = {
        "model": (MODELS, 2),
        "loss": (losses(), 0),
        "optimizer": (optimizers(), 1),
        "scheduler": (schedulers(), 1),
    }
    for section, (names, given) in known.items():
        value = experiment.get(section) if isinstance(experiment, dict) else None
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            try:
                own = ("name", *OUR_KEYS.get(section, ()))
                check_arguments(names, value["name"], [key for key in value if key not in own], given)
            except BuildError as error:
                if (section, error.key) != ("optimizer", "lr"):  # a missing lr is reported already
                    yield _located(section, error)


OUR_KEYS = {"optimizer": ("no_decay", "groups"), "scheduler": ("interval",)}  # beside a name, no arguments of the class


def _batch_check(experiment: ExperimentConfig, dataset: DatasetConfig) -> str | None:
    """Builds an experiment without memory and runs a batch; returns a message about what does not fit, or None.

    A model that looks at values, in its constructor or when it runs, is built on the CPU instead and gets two samples.
    """
    try:
        return _batch_check_on("meta", experiment, dataset)
    except NeedsDataError:
        return _batch_check_on("cpu", experiment, dataset)


def _batch_check_on(device: str, experiment: ExperimentConfig, dataset: DatasetConfig) -> str | None:
    if 0 in dataset.shape:
        return None  # photos without a size: reported already
    if problem := _settings_problem(experiment, dataset):
        return problem
    with (
        warnings.catch_warnings(action="error", category=UserWarning),  # torch warns if a loss broadcasts its arguments
        torch.random.fork_rng(devices=[]),
        torch.device(device),
    ):
        built = _build(device, experiment, dataset)
        if isinstance(built, str):
            return built
        criterion, model = built
        if problem := _batch_problem(device, experiment, dataset, criterion, model):
            return problem
    if criterion.takes != "logits":
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            outputs = _build_model(experiment, dataset.shape, criterion).eval()(torch.rand(4, *dataset.shape))
        if not criterion.accepts(outputs):
            why = f"it takes {criterion.takes}, and the model gives logits"
            return _loss_does_not_fit(experiment, dataset.source.classes, why)
    return None


def _settings_problem(experiment: ExperimentConfig, dataset: DatasetConfig) -> str | None:
    """What does not fit and needs no model to be built."""
    classes = dataset.source.classes
    if experiment.memory_format == "channels_last" and len(dataset.shape) != 3:
        return f"memory_format is channels_last, but {experiment.dataset} has no images; it must be contiguous"
    if not classes and experiment.loss.name in CLASSIFICATION_LOSSES:
        return _loss_does_not_fit(experiment, classes, "it is a loss for classes")
    samples, chosen = dataset.sizes["train"], chosen_samples(dataset.sizes["train"], experiment.fraction)
    if experiment.fraction < 1 and chosen < len(classes):
        enough = math.ceil(100 * len(classes) / samples) / 100
        return (
            f"fraction is {experiment.fraction}: of {samples:,} training samples it leaves {chosen:,}, fewer than the "
            f"{len(classes)} classes of {experiment.dataset}; set at least {enough}"
        )
    return _augmentation_problem(experiment, dataset)


def _build(device: str, experiment: ExperimentConfig, dataset: DatasetConfig) -> tuple[Criterion, nn.Module] | str:
    """The criterion and the model; or what cannot be built, of the optimizer and the scheduler, too."""
    section = "loss"
    try:
        criterion = build_loss(experiment.loss.name, experiment.loss.arguments, dataset.source.classes)
        section = "model"
        _check_types(MODELS, experiment.model.name, experiment.model.arguments)
        model = _build_model(experiment, dataset.shape, criterion)
        section = "optimizer"
        chosen = experiment.optimizer
        optimizer = build_optimizer(chosen.name, chosen.arguments, model, chosen.no_decay, chosen.groups)
        if experiment.scheduler:
            section = "scheduler"
            scheduler = build_scheduler(experiment.scheduler.name, experiment.scheduler.arguments, optimizer)
            if problem := _scheduler_problem(experiment, dataset, scheduler):
                return problem
    except BuildError as error:
        if device == "meta" and needs_data(error):
            raise NeedsDataError(str(error)) from error
        resizable = device == "meta" and (section, error.key) == ("model", "")
        return _located(section, error) + (_size_that_fits(experiment, dataset, criterion) if resizable else "")
    return criterion, model


def _batch_problem(
    device: str, experiment: ExperimentConfig, dataset: DatasetConfig, criterion: Criterion, model: nn.Module
) -> str | None:
    """What does not fit if a batch goes through model and loss."""
    try:
        _try(model, criterion, dataset.shape)
        if dataset.sizes["train"] > 0:  # or it is reported already
            batch_size = None if experiment.batch_size == "full" else experiment.batch_size
            batch = _samples(criterion, dataset.shape)
            samples = chosen_samples(dataset.sizes["train"], experiment.fraction)
            try_batches(model, criterion, *batch, samples, batch_size)
    except NeedsDataError:
        raise
    except BatchError as error:
        what, _, message = str(error).partition(" ")
        if what == "loss:":
            return _loss_does_not_fit(experiment, dataset.source.classes, message)
        if what == "batch_size":
            return str(error)
        resizable = device == "meta" and what == "shape:"
        fits = _size_that_fits(experiment, dataset, criterion) if resizable else ""
        return f"model.name is {experiment.model.name}, dataset {experiment.dataset}: {error}{fits}"
    return None


def _build_model(experiment: ExperimentConfig, shape: tuple[int, ...], criterion: Criterion) -> nn.Module:
    return build_model(experiment.model.name, experiment.model.arguments, shape, criterion.output_size)


def _try(model: nn.Module, criterion: Criterion, shape: tuple[int, ...]) -> None:
    samples = len(criterion.classes) + 2  # not equal to the number of logits, so that no shape fits by accident
    try_batch(model, criterion, *_samples(criterion, shape), samples)


def _samples(criterion: Criterion, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns two inputs and targets on the default device."""
    return torch.rand(2, *shape), torch.zeros(2, dtype=torch.int64) if criterion.classes else torch.zeros(2, 1)


def _scheduler_problem(experiment: ExperimentConfig, dataset: DatasetConfig, scheduler: Any) -> str | None:
    """Steps the scheduler as training will; returns a message about a step that fails, or None."""
    assert experiment.scheduler
    by_epoch = experiment.scheduler.interval == "epoch"
    samples = chosen_samples(dataset.sizes["train"], experiment.fraction)
    batches = 1 if experiment.batch_size == "full" else math.ceil(samples / experiment.batch_size)
    steps, unit, often = experiment.epochs, "epoch", "once an epoch"
    if not by_epoch:
        steps, unit, often = experiment.epochs * batches, "step", f"after each of {batches:,} batches an epoch"
    with warnings.catch_warnings(action="ignore"):  # torch warns that the optimizer was not stepped first
        for step in range(1, steps + 1):
            try:
                scheduler.step(*([1.0] if experiment.scheduler.name == PLATEAU else []))
            except Exception as error:  # each scheduler raises its own errors
                return (
                    f"scheduler.name is {experiment.scheduler.name}, which fails after {unit} {step} of "
                    f"{steps}: {_first_line(error)} (it is stepped {often}: its number of steps, "
                    f"such as scheduler.total_steps, must be {steps} or more)"
                )
    return None


LARGEST = 256  # largest image size in pixels that is tried to suggest one


def _size_that_fits(experiment: ExperimentConfig, dataset: DatasetConfig, criterion: Criterion) -> str:
    """Returns the end of a message about images of a wrong size, with the nearest size that the model takes."""
    if len(dataset.shape) != 3:
        return ""
    channels, now, _ = dataset.shape
    for size in sorted(range(1, LARGEST + 1), key=lambda size: abs(size - now)):
        try:
            _try(_build_model(experiment, (channels, size, size), criterion), criterion, (channels, size, size))
        except (BuildError, BatchError):
            continue
        return f"; or set datasets.{experiment.dataset}.transform.resize to {size}, which fits"
    return ""


def _augmentation_problem(experiment: ExperimentConfig, dataset: DatasetConfig) -> str | None:
    """Tries each transform on two images; returns a message about the first that does not fit, or None."""
    for number, step in enumerate(experiment.augmentation or []):
        key = f"augmentation.{number}"
        if len(dataset.shape) != 3:
            return f"{key} is {step.name}, but {experiment.dataset} has no images; take augmentation out"
        if step.name in MIXES and experiment.loss.name != "CrossEntropyLoss":
            return f"{key} is {step.name}, which mixes classes; loss.name must be CrossEntropyLoss"
        images, targets = torch.zeros(2, *dataset.shape, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
        try:
            augment = Augmentation([(step.name, step.arguments)], len(dataset.source.classes), dataset.source.scale)
            shape = tuple(augment(images, targets, seed=0)[0].shape[1:])
        except BuildError as error:
            return _located(key, error)
        except Exception as error:  # each transform raises its own errors
            return f"{key}: {step.name} does not take images of shape {dataset.shape}: {_first_line(error)}"
        if shape != dataset.shape:
            return (
                f"{key}: {step.name} makes {shape} of {dataset.shape}, but the test part stays as it is; "
                f"the shape must stay the same (size: {dataset.shape[1]}, or padding for what cuts)"
            )
    return None


CLASSIFICATION_LOSSES = ("BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "MultiMarginLoss", "NLLLoss")


def _loss_does_not_fit(experiment: ExperimentConfig, classes: tuple[str, ...], reason: str) -> str:
    kind = f"{len(classes)} classes" if classes else "numbers, not classes"
    name, arguments = experiment.loss.name, experiment.loss.arguments
    usual = _usual_loss(classes)
    advice = f"look at its {', '.join(arguments)}" if name in usual and arguments else f"it could be {usual}"
    return f"loss.name is {name}, which does not fit {experiment.dataset} ({kind}): {reason}; {advice}"


def _check_types(known: dict[str, type[nn.Module]], name: str, arguments: dict[str, Any]) -> None:
    """Checks arguments by the annotations of the constructor, as strictly as the rest of params.yaml.

    Raises:
        BuildError: A name is unknown, an argument is unknown or missing, or a value has the wrong type.
    """
    check_arguments(known, name, arguments, 2)
    parameters = inspect.signature(known[name], eval_str=True).parameters
    for key, value in arguments.items():
        annotation = parameters[key].annotation
        if annotation is not inspect.Parameter.empty:
            try:
                TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
            except ValidationError as error:
                expected = error.errors()[0]["msg"].replace("Input should be", "it must be")
                raise BuildError(key, f"is {json.dumps(value)}; {expected}") from None


def _usual_loss(classes: tuple[str, ...]) -> str:
    if not classes:
        return "L1Loss or MSELoss"
    return "BCEWithLogitsLoss or CrossEntropyLoss" if len(classes) == 2 else "CrossEntropyLoss"


def _located(section: str, error: BuildError) -> str:
    return f"{section}.{error.key} {error}" if error.key else f"{section}: {error}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
