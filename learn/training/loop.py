"""The training loop: a model, an optimizer and a dataset's splits in, one record an epoch out.

`fit` is a generator. It knows nothing of files, progress bars or tracking: whoever drives it does that between epochs.
The random stream is that of the course's `DataLoader(shuffle=True)`, so its printed digits come out; the batches are
cut from whole tensors, which is several times faster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import LBFGS
from torch.optim.lr_scheduler import ReduceLROnPlateau

from learn.errors import NotFiniteError
from learn.training.criterion import Criterion
from learn.training.evaluate import NO_WEIGHT, evaluate_split
from learn.training.meter import EpochMeter
from learn.training.order import draw, shuffled
from learn.training.splits import Split
from learn.training.state import State

if TYPE_CHECKING:
    from learn.training.augment import Augmentation


@dataclass(frozen=True)
class Epoch:
    """One epoch's record; the metrics are the same on every run, the seconds are not."""

    number: int  # from 1
    metrics: dict[str, float]  # train/loss, train/accuracy, test/loss, ..., lr
    seconds: float  # of training and measuring
    samples: int  # that were trained on

    @property
    def samples_per_second(self) -> float:
        return self.samples / self.seconds


def fit(
    state: State,
    train: Split,
    held_out: Split,
    criterion: Criterion,
    *,
    epochs: int,
    batch_size: int | None,
    augment: Augmentation | None = None,
    clip_grad_norm: float | None = None,
) -> Iterator[Epoch]:
    """Trains until `epochs` epochs are done, or early stopping says so, from wherever the state stands; yields after
    each.

    batch_size: None is all samples at once, in their order, as the course does for its small sets. clip_grad_norm: the
    largest norm of all gradients together. Raises NotFiniteError at the batch whose loss is NaN or infinite, and after
    an epoch whose held-out loss or logits are.
    """
    while state.epoch < epochs and not (state.early_stopping and state.early_stopping.is_over):
        start = time.perf_counter()
        metrics = _train_epoch(state, train, criterion, batch_size, augment, clip_grad_norm)
        try:
            measured, _ = evaluate_split(state.model, held_out, criterion, batch_size)
        except NotFiniteError as error:
            raise NotFiniteError(f"epoch {state.epoch + 1}: {error}") from None
        metrics |= measured | {"lr": state.optimizer.param_groups[0]["lr"]}
        if isinstance(state.scheduler, ReduceLROnPlateau):
            state.scheduler.step(metrics[f"{held_out.name}/loss"])
        elif state.scheduler:
            state.scheduler.step()
        state.epoch += 1
        if state.early_stopping:
            state.early_stopping.look(metrics[f"{held_out.name}/loss"])
        yield Epoch(state.epoch, metrics, time.perf_counter() - start, len(train))


def _train_epoch(
    state: State,
    train: Split,
    criterion: Criterion,
    batch_size: int | None,
    augment: Augmentation | None,
    clip_grad_norm: float | None,
) -> dict[str, float]:
    model, optimizer = state.model, state.optimizer
    model.train()
    meter = EpochMeter(criterion)
    seed = 0
    if batch_size or augment:
        seed = draw()  # where the course's training loader seeds its workers, which augment
    order = shuffled(len(train), batch_size, train.targets.device)
    for number, (inputs, targets) in enumerate(train.batches(order), start=1):
        if augment:
            inputs, targets = augment(inputs, targets, (seed + number) % 2**63)
        inputs = train.prepare(inputs)
        if inputs.device.type != "cpu":
            meter.finite_inputs.append(inputs.isfinite().all())
        logits: Any = None

        def closure() -> torch.Tensor:
            nonlocal logits
            optimizer.zero_grad()
            output = model(inputs)
            loss = criterion(output, targets)
            loss.backward()
            if clip_grad_norm:
                nn.utils.clip_grad_norm_(model.parameters(), clip_grad_norm)
            logits = output.detach() if logits is None else logits
            return loss

        loss: Any
        if isinstance(optimizer, LBFGS):  # it looks at several points before it takes one
            loss = optimizer.step(closure)
        else:
            loss = closure()
            optimizer.step()
        meter.add(loss.detach(), logits, targets)
        if loss.device.type == "cpu" or number % BETWEEN_LOOKS == 0:
            _refuse_not_finite(state, meter, inputs, clip_grad_norm)
    _refuse_not_finite(state, meter, inputs, clip_grad_norm)
    if batch_size:
        draw()  # the test loader's workers
    return meter.metrics("train")


BETWEEN_LOOKS = 100  # batches: to look at a loss, the CPU waits for the GPU


def _refuse_not_finite(state: State, meter: EpochMeter, inputs: torch.Tensor, clip_grad_norm: float | None) -> None:
    """Raises NotFiniteError where one of the losses since the last look is NaN or infinite."""
    losses = meter.new_losses()
    for number, loss in enumerate(losses, start=len(meter.losses) - len(losses) + 1):
        if math.isfinite(loss):
            continue
        finite = meter.finite_inputs[number - 1] if meter.finite_inputs else inputs.isfinite().all()
        if not finite:
            cause = "the batch's inputs are not finite: look at the dataset's raw files"
        elif meter.divisors[number - 1] == 0:
            cause = NO_WEIGHT
        else:
            lr = state.optimizer.param_groups[0]["lr"]
            cause = f"likely a learning rate (optimizer.lr, now {lr:g}) that is too large: try {min(lr / 10, 0.01):g}"
            if clip_grad_norm is None:
                cause += ", or clip_grad_norm: 1.0"
        raise NotFiniteError(f"epoch {state.epoch + 1}, batch {number}: the loss is {loss}; {cause}")
