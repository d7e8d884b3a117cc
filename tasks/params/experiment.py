"""One entry of `experiments` in params.yaml: what is trained, how, and on which dataset."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

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

PLATEAU = "ReduceLROnPlateau"  # the one scheduler that looks at a loss


class Optimizer(Named):
    """A class of torch.optim; its learning rate is always written out."""

    lr: Annotated[float, Field(gt=0)]

    @property
    def arguments(self) -> dict[str, Any]:
        return {"lr": self.lr, **super().arguments}


def _batch_size(value: Any) -> Any:
    if value != "full" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError("it must be a whole number >= 1, or full for all samples at once")
    return value


class EarlyStopping(Section):
    """Training ends once the validation part's loss has not improved for so many epochs; the best epoch is kept."""

    patience: Annotated[int, Field(ge=1)]


class Experiment(Section):
    """One entry of `experiments`: one training run."""

    dataset: str
    model: Named
    loss: Named
    optimizer: Optimizer
    scheduler: Named | None = SCHEDULER
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[Any, BeforeValidator(_batch_size)]
    seed: int = Field(ge=0, lt=2**63)
    reseed: bool = RESEED
    memory_format: MemoryFormat = MEMORY_FORMAT
    augmentation: list[Named] | None = AUGMENTATION  # classes of torchvision.transforms.v2, one after the other
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = CLIP_GRAD_NORM
    early_stopping: EarlyStopping | None = EARLY_STOPPING
