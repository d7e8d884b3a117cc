"""One entry of `experiments` in params.yaml: what is trained, how, and on which dataset."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from learn.training.defaults import (
    AUGMENTATION,
    CLIP_GRAD_NORM,
    COMPILE,
    DEVICES,
    EARLY_STOPPING,
    FRACTION,
    GROUPS,
    INTERVAL,
    MEMORY_FORMAT,
    NO_DECAY,
    PRECISION,
    RESEED,
    SCHEDULER,
    SEED,
    SEEDS,
    Interval,
    MemoryFormat,
    NoDecay,
    Precision,
)
from tasks.params.section import Named, Section

PLATEAU = "ReduceLROnPlateau"  # the only scheduler that needs a loss at each step


class OptimizerConfig(Named):
    """A class of torch.optim; its learning rate is always written out."""

    lr: Annotated[float, Field(gt=0)]
    """The learning rate, with which a scheduler starts."""
    no_decay: NoDecay | None = NO_DECAY
    """`norms_and_biases`: the optimizer's `weight_decay` acts on the weights of linear layers and convolutions alone,
    not on biases, norms, class tokens and position embeddings. null: it acts on all parameters."""
    groups: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] | None = GROUPS
    """Arguments that are others for a part of the model, such as `{backbone: {lr: 0.0001}}`. A part is a module, by its
    name in the state_dict, such as `head` or `backbone.blocks.0`. null: the whole model has the same."""

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments of the optimizer, with `lr`."""
        return {"lr": self.lr, **super().arguments}


class SchedulerConfig(Named):
    """A class of torch.optim.lr_scheduler. The schedulers of `SequentialLR` are mappings like this one."""

    interval: Interval = INTERVAL
    """When the scheduler is stepped: once an `epoch`, or after each `step` of the optimizer, which is one a batch. Its
    arguments, such as `T_max` and `milestones`, count the same."""

    @model_validator(mode="after")
    def _plateau_needs_epochs(self) -> SchedulerConfig:
        if self.name == PLATEAU and self.interval == "step":
            raise ValueError(f"interval is step, but {PLATEAU} looks at the loss after an epoch; it must be epoch")
        return self


def _batch_size(value: Any) -> Any:
    if value != "full" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError("it must be a whole number >= 1, or full for all samples at once")
    return value


class EarlyStoppingConfig(Section):
    """Training ends once the validation loss has not improved for `patience` epochs; the best epoch is kept."""

    patience: Annotated[int, Field(ge=1)]
    """Number of epochs without a lower validation loss after which training ends."""


Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _several(seeds: list[int]) -> list[int]:
    if len(seeds) < 2:
        raise ValueError("it must have at least two seeds; one alone is the key seed")
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise ValueError(f"{twice[0]} is there twice; each seed must be another one")
    return sorted(seeds)


class ExperimentConfig(Section):
    """One entry of `experiments`: what is trained, once or with several seeds."""

    dataset: str
    """Name of the dataset to train on, one of those below `datasets`."""
    model: Named
    """The model, by its name in `MODELS` (its file in learn/models/), with its arguments."""
    loss: Named
    """The loss, a class of `torch.nn`, with its arguments."""
    optimizer: OptimizerConfig
    """The optimizer, a class of `torch.optim`, with its arguments; the learning rate `lr` must be given."""
    scheduler: SchedulerConfig | None = SCHEDULER
    """A class of `torch.optim.lr_scheduler` with its arguments. `ReduceLROnPlateau` needs a validation part. null: the
    learning rate stays."""
    epochs: Annotated[int, Field(ge=1)]
    """Number of times that training goes through the training part."""
    batch_size: Annotated[
        Any,
        BeforeValidator(_batch_size),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "full"}]}),
    ]
    """Number of samples in a batch, or `full` for all training samples at once."""
    seed: Seed | None = SEED
    """Seed of the model's weights, the batches' order and the augmentation. Either `seed` or `seeds` must be given."""
    seeds: Annotated[list[Seed], AfterValidator(_several)] | None = SEEDS
    """Several seeds, such as `[42, 43, 44]`: the experiment is trained once with each, and its metrics are the means.
    A seed that is added trains alone; the others' state_dicts are kept."""
    reseed: bool = RESEED
    """False: the batches' order goes on in the random stream that drew the weights, instead of starting from the seed
    again."""
    memory_format: MemoryFormat = MEMORY_FORMAT
    """How images lie in memory. `channels_last` is for images: it makes convolutions faster on a CPU and
    changes the last bits."""
    augmentation: list[Named] | None = AUGMENTATION
    """Random transforms of the training batches: classes of `torchvision.transforms.v2` with their arguments, one after
    the other, such as `[{name: RandomHorizontalFlip}]`. null: none."""
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = CLIP_GRAD_NORM
    """Largest norm of all gradients together; larger gradients are scaled down to it. null: no limit."""
    early_stopping: EarlyStoppingConfig | None = EARLY_STOPPING
    """End the training early and keep the best epoch; needs a validation part. null: train all epochs."""
    fraction: Annotated[float, Field(gt=0, le=1)] = FRACTION
    """Fraction of the training part to train on, such as 0.1. It is drawn with the split's `seed`, stratified if the
    split is, and lies inside each larger fraction. The validation and the test part stay whole."""

    precision: Precision = PRECISION
    """Precision of training: `fp32`, or 16 bits (`bf16`, `fp16`) by torch's autocast, for `fp16` with its GradScaler.
    Weights and losses stay fp32, and the model is measured in fp32. A device that does not have it is refused."""
    compile: bool = COMPILE
    """True: train the model compiled by `torch.compile`, which takes a while before the first epoch and changes the
    last bits. Needs a C++ compiler; on a CPU it rarely pays. The evaluate stage does not compile."""

    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = DEVICES
    """Number of devices that train together, each its share of every batch, by torch's DistributedDataParallel: GPUs,
    or processes on a CPU. `auto`: all GPUs of the machine. The losses are those of one device up to rounding."""

    @property
    def trainings(self) -> list[int | None]:
        """What is trained: `[None]` for one seed, which needs no name, or each of several seeds."""
        return list(self.seeds) if self.seeds else [None]

    def with_seed(self, seed: int | None) -> ExperimentConfig:
        """Returns the experiment with one of its seeds alone, as if that were its `seed`; None: the one that it has."""
        return self if seed is None else self.model_copy(update={"seed": seed, "seeds": None})

    @model_validator(mode="after")
    def _has_seed(self) -> ExperimentConfig:
        if (self.seed is None) == (self.seeds is None):
            raise ValueError("either seed or seeds must be given, and not both")
        return self

    @model_validator(mode="after")
    def _one_loss_for_all_devices(self) -> ExperimentConfig:
        if self.devices != 1 and self.optimizer.name == "LBFGS":
            raise ValueError(
                f"devices is {self.devices}, but LBFGS decides by losses that devices do not share; it must be 1"
            )
        return self

    @model_validator(mode="after")
    def _scaled_gradients_take_one_loss(self) -> ExperimentConfig:
        if self.precision == "fp16" and self.optimizer.name == "LBFGS":
            raise ValueError("precision is fp16, but LBFGS computes several losses a step; it must be fp32 or bf16")
        return self
