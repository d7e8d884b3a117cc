"""One entry of `experiments` in params.yaml: what is trained, how, and on which dataset."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from learn.training.defaults import (
    AUGMENTATION,
    CLIP_GRAD_NORM,
    EARLY_STOPPING,
    MEMORY_FORMAT,
    RESEED,
    SCHEDULER,
    MemoryFormat,
)
from tasks.params.section import Named, Section

PLATEAU = "ReduceLROnPlateau"  # the only scheduler that needs a loss at each step


class OptimizerConfig(Named):
    """A class of torch.optim; its learning rate is always written out."""

    lr: Annotated[float, Field(gt=0)]
    """The learning rate, with which a scheduler starts."""

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments of the optimizer, with `lr`."""
        return {"lr": self.lr, **super().arguments}


def _batch_size(value: Any) -> Any:
    if value != "full" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError("it must be a whole number >= 1, or full for all samples at once")
    return value


class EarlyStoppingConfig(Section):
    """Training ends once the validation loss has not improved for `patience` epochs; the best epoch is kept."""

    patience: Annotated[int, Field(ge=1)]
    """Number of epochs without a lower validation loss after which training ends."""


class ExperimentConfig(Section):
    """One entry of `experiments`: one training run."""

    dataset: str
    """Name of the dataset to train on, one of those below `datasets`."""
    model: Named
    """The model, by its name in `MODELS` (its file in learn/models/), with its arguments."""
    loss: Named
    """The loss, a class of `torch.nn`, with its arguments."""
    optimizer: OptimizerConfig
    """The optimizer, a class of `torch.optim`, with its arguments; the learning rate `lr` must be given."""
    scheduler: Named | None = SCHEDULER
    """A class of `torch.optim.lr_scheduler` with its arguments, stepped once an epoch. `ReduceLROnPlateau` needs a
    validation part. null: the learning rate stays."""
    epochs: Annotated[int, Field(ge=1)]
    """Number of times that training goes through the training part."""
    batch_size: Annotated[
        Any,
        BeforeValidator(_batch_size),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "full"}]}),
    ]
    """Number of samples in a batch, or `full` for all training samples at once."""
    seed: int = Field(ge=0, lt=2**63)
    """Seed of the model's weights, the batches' order and the augmentation."""
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
