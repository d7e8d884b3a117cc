"""Plans a training: assembles what it needs, checks a batch, and knows what would fit into a full device."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from learn.errors import BatchError
from tasks.assemble import HELD_OUT, Assembled, assemble
from tasks.gpu import free_memory, memory_told
from tasks.params import ExperimentConfig, Params
from tasks.params.flatten import flatten

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

    from learn.training.augment import Augmentation
    from learn.training.ranks import Ranks


STREAM = "memory: streamed in params.yaml reads them from their file, batch by batch"


@dataclass(frozen=True)
class Plan:
    """What is known before the first epoch."""

    assembled: Assembled
    model: nn.Module  # as it is before the first epoch, on the device
    augment: Augmentation | None
    summary: Any  # torchinfo's summary of the model
    settings: dict[str, Any]  # the parameters of the run, flattened
    ranks: Ranks  # the processes that train together
    seed: int | None = None  # one of several seeds; None if the experiment has one

    @property
    def title(self) -> str:
        """The experiment's name, with the seed if there are several."""
        return self.assembled.name if self.seed is None else f"{self.assembled.name}, seed {self.seed}"

    def with_seed(self, seed: int) -> Plan:
        """Returns the plan of another seed, with a new model."""
        assembled = replace(self.assembled, experiment=self.assembled.experiment.with_seed(seed))
        settings = {key: value for key, value in self.settings.items() if key != "seeds"} | {"seed": seed}
        with memory_told(f"train {assembled.name}: for the model", assembled.device, lambda: _smaller(assembled.name)):
            model = assembled.on_device(assembled.new_model())
        return replace(self, assembled=assembled, model=model, settings=settings, seed=seed)


def settings_of(params: Params, experiment: ExperimentConfig, device: torch.device) -> dict[str, Any]:
    """Returns the parameters of a run, flattened: of the experiment, and of what its dataset's stages do."""
    dataset = params.dataset(experiment.dataset)
    data = {"split": dataset.split.model_dump(), "transform": dataset.transform.model_dump()}
    return flatten(experiment.model_dump() | data | {"device": str(device), "threads": params.threads})


def _smaller(name: str) -> str:
    return f"choose a smaller experiments.{name}.model"


def check_batches(assembled: Assembled, model: nn.Module) -> None:
    """Checks that model, loss and batches fit each other; raises BatchError. Draws no random numbers."""
    from learn.training.batch_check import try_batches

    training = assembled.splits["train"]
    try:
        try_batches(model, assembled.criterion, *training.batch(slice(0, 2)), len(training), assembled.batch_size)
    except BatchError as error:
        raise BatchError(f"experiments.{assembled.name}: {error}") from error


def plan(params: Params, name: str, ranks: Ranks | None = None, *, is_pretrained: bool = True) -> Plan:
    """Assembles what an experiment is trained with, and checks a batch without data.

    Args:
        params: The parameters.
        name: The experiment's name.
        ranks: The processes that train together; None if this one trains alone.
        is_pretrained: False to leave pretrained weights out, for what was trained already.

    Raises:
        DeviceError: The device is not available, or its memory is too small.
        DataError: A file of the data is damaged.
        BatchError: Model, loss and data do not fit each other.
    """
    from learn.training.device import use_device
    from learn.training.ranks import ALONE

    experiment = params.experiment(name)
    device = use_device(params.device, params.threads)
    with memory_told(f"train {name}: for the inputs", device, lambda: STREAM):
        assembled = assemble(params, name, "train", HELD_OUT)
    first = experiment.with_seed(experiment.trainings[0])
    assembled = replace(assembled, experiment=first, is_pretrained=is_pretrained)
    model = assembled.new_model()
    with memory_told(f"train {name}: for the model", device, lambda: _smaller(name)):
        model = assembled.on_device(model)
    check_batches(assembled, model)
    planned = Plan(assembled, model, assembled.augmentation(), None, {}, ranks or ALONE)
    summary = _summary(planned)
    counts = {"parameters": summary.total_params, "samples": len(assembled.splits["train"])}
    return replace(planned, summary=summary, settings=settings_of(params, experiment, device) | counts)


def _summary(planned: Plan) -> Any:
    """Returns torchinfo's summary of the model for a whole batch."""
    import torch
    import torchinfo

    assembled, model = planned.assembled, planned.model
    samples = min(assembled.batch_size or sys.maxsize, len(assembled.splits["train"]))

    def advice() -> str:
        return what_fits(planned, assembled.new_optimizer(model))

    with (
        memory_told(f"train {assembled.name}: for a batch of {samples:,}", assembled.device, advice),
        torch.random.fork_rng(devices=[]),  # torchinfo draws random inputs
    ):
        try:
            return torchinfo.summary(
                model,
                input_size=(samples, *assembled.info.shape),
                mode="eval",
                verbose=0,
                device=assembled.device,
                col_names=("input_size", "output_size", "num_params", "trainable"),
            )
        except RuntimeError as error:
            raise (error.__cause__ or error) from None  # torchinfo wraps the model's own error


def what_fits(planned: Plan, optimizer: Optimizer) -> str:
    """Returns the end of the message about a full device, with a batch size for which a training step works now."""
    from learn.training.batch_check import largest_batch

    assembled = planned.assembled
    training = assembled.splits["train"]

    def step(samples: int) -> None:
        optimizer.state.clear()
        optimizer.zero_grad()
        free_memory(assembled.device)
        inputs, targets = training.batch(slice(0, samples))

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = assembled.criterion(planned.model(inputs), targets)
            loss.backward()
            return loss

        planned.model.train()
        optimizer.step(closure)  # type: ignore[arg-type]  # a tensor, as the closure returns

    fits = largest_batch(step, assembled.batch_size or len(training))
    if fits:
        return f"experiments.{assembled.name}.batch_size: {fits} would likely fit"
    return f"not even one sample a batch fits: choose a smaller experiments.{assembled.name}.model, or memory: streamed"
