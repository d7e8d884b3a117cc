"""The training loop: takes a model, an optimizer and a dataset's splits, and yields one record per epoch.

`fit` is a generator. It knows nothing of files, progress bars or tracking: its caller does that between epochs. It
draws the same random numbers as the course's `DataLoader(shuffle=True)`, so the course's printed results come out to
the digit, but cuts batches from whole tensors, which is several times faster.
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
from learn.models.blocks.backbone import Backbone
from learn.training.criterion import Criterion
from learn.training.defaults import INTERVAL, PRECISION, Interval, Precision
from learn.training.evaluate import NO_WEIGHT, evaluate_split
from learn.training.features import with_features
from learn.training.meter import EpochMeter
from learn.training.order import shuffled
from learn.training.precision import forward
from learn.training.ranks import ALONE, Ranks, share_loss
from learn.training.splits import Split
from learn.training.state import State

if TYPE_CHECKING:
    from learn.training.augment import Augmentation


@dataclass(frozen=True)
class Epoch:
    """The record of one epoch; the metrics are the same on every run, the seconds are not."""

    number: int  # counted from 1
    metrics: dict[str, float]  # train/loss, train/accuracy, test/loss, ..., lr
    seconds: float  # time for training and measuring
    samples: int  # number of training samples

    @property
    def samples_per_second(self) -> float:
        """Training samples per second, with the time for measuring the held-out split."""
        return self.samples / self.seconds


@dataclass(frozen=True)
class FitOptions:
    """How `fit` trains.

    Attributes:
        epochs: Number of epochs in all, including those that the state has done already.
        batch_size: Number of samples in a batch; None for all at once and unshuffled, as the course does for its
            small datasets.
        augment: Random transforms of each training batch; None for none.
        clip_grad_norm: Largest norm of all gradients together; None for no limit.
        scheduler_interval: Whether the scheduler is stepped once an epoch, or after each step of the optimizer.
        precision: In which the model computes while it trains; it is measured in fp32.
        ranks: The processes that train together.
    """

    epochs: int
    batch_size: int | None
    augment: Augmentation | None = None
    clip_grad_norm: float | None = None
    scheduler_interval: Interval = INTERVAL
    precision: Precision = PRECISION
    ranks: Ranks = ALONE


def fit(state: State, train: Split, held_out: Split, criterion: Criterion, options: FitOptions) -> Iterator[Epoch]:
    """Trains from the given state until all epochs are done or early stopping ends it, and yields after each epoch.

    A frozen backbone computes its features once, before the first epoch, unless augmentation changes its inputs. A
    model may unfreeze its backbone later.

    Args:
        state: Model, optimizer and progress; training changes it.
        train: The split to train on.
        held_out: The split to measure after each epoch.
        criterion: The loss.
        options: How to train.

    Raises:
        NotFiniteError: The loss of a batch, or the held-out loss or a logit after an epoch, is NaN or infinite.
    """
    start, kept, averaged, ranks = time.perf_counter(), list[Split](), None, options.ranks
    ranks.reseed()
    while state.epoch < options.epochs and not (state.early_stopping and state.early_stopping.is_over):
        network, samples, measured_on = state.model, train, held_out
        if isinstance(network, Backbone):
            network.begin_epoch(state.epoch)
            if network.has_constant_features and not options.augment:
                kept = kept or [with_features(network, part, options.batch_size) for part in (train, held_out)]
                network, samples, measured_on = network.head, *kept
        averaged = ranks.wrapped(network, averaged)
        metrics = _train_epoch(state, averaged, samples, criterion, options)
        ranks.copy_statistics(network)
        try:
            measured, _ = evaluate_split(network, measured_on, criterion, options.batch_size, ranks)
        except NotFiniteError as error:
            raise NotFiniteError(f"epoch {state.epoch + 1}: {error}") from None
        metrics |= measured | {"lr": state.optimizer.param_groups[0]["lr"]}
        if isinstance(state.scheduler, ReduceLROnPlateau):
            state.scheduler.step(metrics[f"{held_out.name}/loss"])
        elif state.scheduler and options.scheduler_interval == "epoch":
            state.scheduler.step()
        state.epoch += 1
        if state.early_stopping:
            state.early_stopping.look(metrics[f"{held_out.name}/loss"])
        yield Epoch(state.epoch, metrics, time.perf_counter() - start, len(train))
        start = time.perf_counter()


def _train_epoch(
    state: State, network: nn.Module, train: Split, criterion: Criterion, options: FitOptions
) -> dict[str, float]:
    """Trains one epoch on the train split, and returns its metrics.

    Args:
        state: What training changes.
        network: What takes the batches: the model, or its head if the batches hold its backbone's features; of several
            processes with averaged gradients.
        train: The split.
        criterion: The loss.
        options: How to train.
    """
    network.train()
    ranks = options.ranks
    meter = EpochMeter(criterion, ranks)
    seed = 0
    if options.batch_size or options.augment:
        seed = ranks.draw()  # the course's training loader draws here too, to seed its workers, which augment
    order = shuffled(len(train), options.batch_size, train.targets.device, ranks.draw)
    shares = [ranks.share(index, len(train)) for index in order]
    for number, (inputs, targets) in enumerate(train.batches(share for share, _ in shares), start=1):
        counts = shares[number - 1][1] > 0
        if options.augment:
            inputs, targets = options.augment(inputs, targets, (seed + number + ranks.rank * 2**32) % 2**63)
        inputs = train.prepare(inputs)
        if inputs.device.type != "cpu":
            meter.finite_inputs.append(inputs.isfinite().all())
        weight = ranks.weight(criterion, targets, counts=counts)
        loss, logits = _step(state, network, criterion, inputs, targets, options, weight)
        if state.scheduler and options.scheduler_interval == "step":
            state.scheduler.step()
        if counts:
            meter.add(loss, logits, targets)
        else:
            meter.add_nothing()
        if loss.device.type == "cpu" or number % BATCHES_BETWEEN_CHECKS == 0:
            _refuse_not_finite(state, meter, inputs, options.clip_grad_norm)
    _refuse_not_finite(state, meter, inputs, options.clip_grad_norm)
    if options.batch_size:
        ranks.draw()  # the course's test loader draws here too, to seed its workers
    return meter.metrics("train")


def _step(
    state: State,
    network: nn.Module,
    criterion: Criterion,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    options: FitOptions,
    weight: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Takes one step of the optimizer; returns the batch's loss, a scalar, and logits (N, output_size) before it.

    Args:
        state: What training changes.
        network: What takes the batch.
        criterion: The loss.
        inputs: (B, *shape).
        targets: (B, ...).
        options: How to train.
        weight: What `Ranks.weight` returned.
    """
    logits: Any = None

    def closure() -> torch.Tensor:
        nonlocal logits
        state.optimizer.zero_grad()
        output = forward(network, inputs, options.precision)
        loss = share_loss(criterion, output, targets, weight)
        shared = loss if weight is None else loss * weight
        (state.scaler.scale(shared) if state.scaler else shared).backward()
        if options.clip_grad_norm:
            if state.scaler:
                state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.model.parameters(), options.clip_grad_norm)
        logits = output.detach() if logits is None else logits
        return loss

    loss: Any
    if isinstance(state.optimizer, LBFGS):  # LBFGS computes the loss at several points in one step
        loss = state.optimizer.step(closure)
    else:
        loss = closure()
        if state.scaler:
            state.scaler.step(state.optimizer)
            state.scaler.update()
        else:
            state.optimizer.step()
    return loss.detach(), logits


BATCHES_BETWEEN_CHECKS = 100  # on a GPU only: reading a loss makes the CPU wait for the GPU


def _refuse_not_finite(state: State, meter: EpochMeter, inputs: torch.Tensor, clip_grad_norm: float | None) -> None:
    """Raises NotFiniteError if one of the losses since the last call is NaN or infinite."""
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
