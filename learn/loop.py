"""The training loop: a model, an optimizer and a dataset's parts in, one record an epoch out.

`fit` is a generator. It knows nothing of files, progress bars or tracking: whoever drives it does that between epochs.
The random stream is that of the course's `DataLoader(shuffle=True)`, so its printed digits come out; the batches are
cut from whole tensors, which is several times faster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from learn.errors import DeviceError
from learn.objective import Objective
from learn.parts import Part


@dataclass
class State:
    """Everything that training changes. `state_dict` and `load_state_dict` allow to go on later, to the bit."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: Any | None = None
    epoch: int = 0  # epochs done

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])


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
    state: State, train: Part, held_out: Part, objective: Objective, *, epochs: int, batch_size: int | None
) -> Iterator[Epoch]:
    """Trains until `epochs` epochs are done, from wherever the state stands, and yields after each.

    batch_size: None is all samples at once, in their order, as the course does for its small sets.
    """
    while state.epoch < epochs:
        start = time.perf_counter()
        metrics = _train_epoch(state, train, objective, batch_size)
        measured, _ = measure(state.model, held_out, objective, batch_size)
        metrics |= measured | {"lr": state.optimizer.param_groups[0]["lr"]}
        if isinstance(state.scheduler, ReduceLROnPlateau):
            state.scheduler.step(metrics[f"{held_out.name}/loss"])
        elif state.scheduler:
            state.scheduler.step()
        state.epoch += 1
        yield Epoch(state.epoch, metrics, time.perf_counter() - start, len(train))


def _train_epoch(state: State, train: Part, objective: Objective, batch_size: int | None) -> dict[str, float]:
    model, optimizer = state.model, state.optimizer
    model.train()
    record = _Record(objective, len(train))
    for index in shuffled(len(train), batch_size, train.targets.device):
        inputs, targets = train.batch(index)
        logits: Any = None

        def closure() -> torch.Tensor:
            # used up within this turn of the loop, though an optimizer may call it more than once (LBFGS)
            nonlocal logits
            optimizer.zero_grad()
            output = model(inputs)
            loss = objective(output, targets)
            loss.backward()
            logits = output.detach() if logits is None else logits
            return loss

        loss: Any = optimizer.step(closure)  # type: ignore[arg-type]  # a tensor, as the closure returns
        record.add(loss.detach(), logits, targets)
    return record.metrics("train")


def measure(
    model: nn.Module, part: Part, objective: Objective, batch_size: int | None
) -> tuple[dict[str, float], torch.Tensor]:
    """Metrics of the model on a part, and its logits (N, output_size) on the CPU. Takes nothing from the generators."""
    model.eval()
    record = _Record(objective, len(part))
    outputs = []
    size = batch_size or len(part)
    with torch.inference_mode():
        for start in range(0, len(part), size):
            inputs, targets = part.batch(slice(start, start + size))
            logits = model(inputs)
            record.add(objective(logits, targets), logits, targets)
            outputs.append(logits)
    return record.metrics(part.name), torch.cat(outputs).cpu()


def shuffled(samples: int, batch_size: int | None, device: torch.device) -> Iterator[torch.Tensor | slice]:
    """Indices of each batch, drawn as `DataLoader(shuffle=True, batch_size=...)` draws them.

    A DataLoader takes one number from the global generator for its workers, its RandomSampler one to seed a generator
    of its own, and the DataLoader of the test loop, after the last training batch, one more for its workers.
    """
    if batch_size is None:
        yield slice(None)
        return
    _draw()  # the training loader's workers
    generator = torch.Generator()
    generator.manual_seed(_draw())
    order = torch.randperm(samples, generator=generator)
    yield from order.to(device).split(batch_size)
    _draw()  # the test loader's workers


def _draw() -> int:
    return int(torch.empty((), dtype=torch.int64).random_().item())


class _Record:
    """An epoch's losses and hits, kept on the device until the end: nothing waits for the GPU within the epoch."""

    def __init__(self, objective: Objective, samples: int) -> None:
        self.objective = objective
        self.samples = samples
        self.losses: list[torch.Tensor] = []
        self.hits: list[torch.Tensor] = []
        self.sizes: list[int] = []

    def add(self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        self.losses.append(loss)
        self.sizes.append(len(targets))
        if self.objective.classes:
            self.hits.append((self.objective.predict(logits) == targets).sum())

    def metrics(self, part: str) -> dict[str, float]:
        """The mean over samples, and the course's over batches, where a short last one weighs as much as another."""
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        losses = torch.stack(self.losses).cpu().double()
        if getattr(self.objective.loss, "reduction", "mean") == "sum":
            losses /= sizes
        means = {"loss": losses}
        if self.objective.classes:
            means["accuracy"] = torch.stack(self.hits).cpu() / sizes
        metrics = {}
        for name, values in means.items():
            metrics[f"{part}/{name}"] = float((values * sizes).sum() / self.samples)
            if len(self.sizes) > 1:
                metrics[f"{part}/{name}_batch_mean"] = float(values.mean())
        return metrics


def use_device(name: str, threads: int) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps` → the device, with torch set to give the same bits again on it.

    Raises DeviceError with what there is, where the one asked for is not there.
    """
    torch.set_num_threads(threads)
    available = ["cpu"]
    if torch.cuda.is_available():
        available += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        available.append("mps")
    if name == "auto":
        name = available[1] if len(available) > 1 else "cpu"
    if name not in available:
        raise DeviceError(f"device is {name}; this machine has {', '.join(available)}: choose one of them, or auto")
    if name != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return torch.device(name)
