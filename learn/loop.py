"""The training loop: a model, an optimizer and a dataset's parts in, one record an epoch out.

`fit` is a generator. It knows nothing of files, progress bars or tracking: whoever drives it does that between epochs.
The random stream is that of the course's `DataLoader(shuffle=True)`, so its printed digits come out; the batches are
cut from whole tensors, which is several times faster.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from learn.errors import DeviceError, NotFiniteError
from learn.objective import Objective
from learn.parts import Part

if TYPE_CHECKING:
    from learn.augment import Augmentation


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
    state: State,
    train: Part,
    held_out: Part,
    objective: Objective,
    *,
    epochs: int,
    batch_size: int | None,
    augment: Augmentation | None = None,
    clip_grad_norm: float | None = None,
) -> Iterator[Epoch]:
    """Trains until `epochs` epochs are done, from wherever the state stands, and yields after each.

    batch_size: None is all samples at once, in their order, as the course does for its small sets. clip_grad_norm: the
    largest norm of all gradients together. Raises NotFiniteError at the batch whose loss is NaN or infinite, and after
    an epoch whose held-out loss or logits are.
    """
    while state.epoch < epochs:
        start = time.perf_counter()
        metrics = _train_epoch(state, train, objective, batch_size, augment, clip_grad_norm)
        try:
            measured, _ = measure(state.model, held_out, objective, batch_size)
        except NotFiniteError as error:
            raise NotFiniteError(f"epoch {state.epoch + 1}: {error}") from None
        metrics |= measured | {"lr": state.optimizer.param_groups[0]["lr"]}
        if isinstance(state.scheduler, ReduceLROnPlateau):
            state.scheduler.step(metrics[f"{held_out.name}/loss"])
        elif state.scheduler:
            state.scheduler.step()
        state.epoch += 1
        yield Epoch(state.epoch, metrics, time.perf_counter() - start, len(train))


def _train_epoch(
    state: State,
    train: Part,
    objective: Objective,
    batch_size: int | None,
    augment: Augmentation | None,
    clip_grad_norm: float | None,
) -> dict[str, float]:
    model, optimizer = state.model, state.optimizer
    model.train()
    record = _Record(objective)
    seed = 0
    if batch_size or augment:
        seed = _draw()  # where the course's training loader seeds its workers, which augment
    order = shuffled(len(train), batch_size, train.targets.device)
    for number, (inputs, targets) in enumerate(train.batches(order), start=1):
        if augment:
            inputs, targets = augment(inputs, targets, (seed + number) % 2**63)
        inputs = train.prepare(inputs)
        if inputs.device.type != "cpu":
            record.finite_inputs.append(inputs.isfinite().all())
        logits: Any = None

        def closure() -> torch.Tensor:
            # used up within this turn of the loop, though an optimizer may call it more than once (LBFGS)
            nonlocal logits
            optimizer.zero_grad()
            output = model(inputs)
            loss = objective(output, targets)
            loss.backward()
            if clip_grad_norm:
                nn.utils.clip_grad_norm_(model.parameters(), clip_grad_norm)
            logits = output.detach() if logits is None else logits
            return loss

        loss: Any = optimizer.step(closure)  # type: ignore[arg-type]  # a tensor, as the closure returns
        record.add(loss.detach(), logits, targets)
        if loss.device.type == "cpu" or number % BETWEEN_LOOKS == 0:
            _refuse_not_finite(state, record, inputs, clip_grad_norm)
    _refuse_not_finite(state, record, inputs, clip_grad_norm)
    if batch_size:
        _draw()  # the test loader's workers
    return record.metrics("train")


BETWEEN_LOOKS = 100  # batches: to look at a loss, the CPU waits for the GPU


def _refuse_not_finite(state: State, record: _Record, inputs: torch.Tensor, clip_grad_norm: float | None) -> None:
    """Raises NotFiniteError where one of the losses since the last look is NaN or infinite."""
    losses = record.new_losses()
    for number, loss in enumerate(losses, start=len(record.losses) - len(losses) + 1):
        if math.isfinite(loss):
            continue
        finite = record.finite_inputs[number - 1] if record.finite_inputs else inputs.isfinite().all()
        if not finite:
            cause = "the batch's inputs are not finite: look at the dataset's raw files"
        elif record.divisors[number - 1] == 0:
            cause = NO_WEIGHT
        else:
            lr = state.optimizer.param_groups[0]["lr"]
            cause = f"likely a learning rate (optimizer.lr, now {lr:g}) that is too large: try {min(lr / 10, 0.01):g}"
            if clip_grad_norm is None:
                cause += ", or clip_grad_norm: 1.0"
        raise NotFiniteError(f"epoch {state.epoch + 1}, batch {number}: the loss is {loss}; {cause}")


def measure(
    model: nn.Module, part: Part, objective: Objective, batch_size: int | None
) -> tuple[dict[str, float], torch.Tensor]:
    """Metrics of the model on a part, and its logits (N, output_size) on the CPU. Advances no random generator.

    Raises NotFiniteError, with the likely cause, if the loss or a logit is NaN or infinite.
    """
    model.eval()
    record = _Record(objective)
    outputs: torch.Tensor | None = None
    size, done = batch_size or len(part), 0
    with torch.inference_mode():
        for inputs, targets in part.batches(slice(start, start + size) for start in range(0, len(part), size)):
            logits = model(part.prepare(inputs))
            record.add(objective(logits, targets), logits, targets)
            if outputs is None:
                outputs = logits.new_empty((len(part), *logits.shape[1:]))
            outputs[done : done + len(logits)] = logits
            done += len(logits)
    assert outputs is not None
    metrics = record.metrics(part.name)
    if not (math.isfinite(metrics[f"{part.name}/loss"]) and outputs.isfinite().all()):
        raise NotFiniteError(_why_not_finite(model, part, objective, metrics[f"{part.name}/loss"], size))
    return metrics, outputs.cpu()


def _why_not_finite(model: nn.Module, part: Part, objective: Objective, loss: float, size: int) -> str:
    if math.isfinite(loss):
        what = f"logits of the {part.name} part are not finite"
    else:
        what = f"the {part.name} loss is {loss}"
    if not_finite := [name for name, weights in model.named_parameters() if not weights.isfinite().all()]:
        return f"{what}: the weights {not_finite[0]} are not finite; {TOO_LARGE}"
    order = [slice(start, start + size) for start in range(0, len(part), size)]
    for number, (inputs, targets) in enumerate(part.batches(order), start=1):
        if not inputs.isfinite().all():
            return f"{what}: the inputs of batch {number} are not finite; look at the dataset's raw files"
        if objective.divisor(targets) == 0:
            return f"{what}: batch {number}: {NO_WEIGHT}"
    return f"{what}; {TOO_LARGE}"


NO_WEIGHT = "all of its targets have weight 0; give loss.weight numbers above 0, or take a larger batch_size"
TOO_LARGE = "likely a learning rate (optimizer.lr) that is too large: try a tenth of it, or clip_grad_norm: 1.0"


def refuse_not_finite_weights(model: nn.Module) -> None:
    """Raises NotFiniteError if a parameter holds NaN or infinity, whether or not the loss depends on it."""
    for name, weights in model.named_parameters():
        if not weights.isfinite().all():
            raise NotFiniteError(f"after the last step the weights {name} are not finite; {TOO_LARGE}")


def shuffled(samples: int, batch_size: int | None, device: torch.device) -> Iterator[torch.Tensor | slice]:
    """Indices of each batch, drawn as `DataLoader(shuffle=True, batch_size=...)` draws them.

    A DataLoader takes one number from the global generator for its workers, its RandomSampler one to seed a generator
    of its own, and the DataLoader of the test loop, after the last training batch, one more for its workers. The first
    and the last are drawn around this.
    """
    if batch_size is None:
        yield slice(None)
        return
    generator = torch.Generator()
    generator.manual_seed(_draw())
    yield from torch.randperm(samples, generator=generator).to(device).split(batch_size)


def _draw() -> int:
    return int(torch.empty((), dtype=torch.int64).random_().item())


class _Record:
    """An epoch's losses and hits. On a GPU they stay there until the end: nothing waits for it within the epoch.

    On a CPU they become numbers at once: small tensors that are kept between large ones that are freed make glibc's
    heap grow by gigabytes.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.losses: list[torch.Tensor | float] = []
        self.hits: list[torch.Tensor | float] = []
        self.sizes: list[int] = []
        self.finite_inputs: list[torch.Tensor] = []  # on a GPU: whether each batch's are
        self.divisors: list[torch.Tensor | float] = []  # of each loss that is a mean
        self._looked_at = 0

    def add(self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        self.losses.append(_kept(loss))
        self.sizes.append(len(targets))
        self.divisors.append(_kept(self.objective.divisor(targets)))
        if self.objective.classes:
            if targets.ndim == 2:  # probabilities, after MixUp or CutMix
                targets = targets.argmax(1)
            self.hits.append(_kept((self.objective.predict(logits) == targets).sum()))

    def new_losses(self) -> list[float]:
        """Of the batches since the last call."""
        new = [float(loss) for loss in self.losses[self._looked_at :]]
        self._looked_at = len(self.losses)
        return new

    def metrics(self, part: str) -> dict[str, float]:
        """The mean over samples, and `*_batch_mean`: the unweighted mean of batch means, as the course prints it."""
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        losses = _as_tensor(self.losses)
        if getattr(self.objective.loss, "reduction", "mean") == "sum":
            losses /= sizes
        means = {"loss": (losses, _as_tensor(self.divisors))}
        if self.objective.classes:
            means["accuracy"] = (_as_tensor(self.hits) / sizes, sizes)
        metrics = {}
        for name, (values, divisors) in means.items():
            metrics[f"{part}/{name}"] = float((values * divisors).sum() / divisors.sum())
            if len(self.sizes) > 1:
                metrics[f"{part}/{name}_batch_mean"] = float(values.mean())
        return metrics


def _kept(scalar: torch.Tensor | float) -> torch.Tensor | float:
    return scalar.item() if isinstance(scalar, torch.Tensor) and scalar.device.type == "cpu" else scalar


def _as_tensor(scalars: list[torch.Tensor | float]) -> torch.Tensor:
    """One or the other kind → (B,) float64 on the CPU."""
    if isinstance(scalars[0], torch.Tensor):
        return torch.stack(scalars).cpu().double()  # type: ignore[arg-type]
    return torch.tensor(scalars, dtype=torch.float64)


class Best:
    """The state_dict of the best epoch by its held-out loss; training is over after `patience` epochs without one."""

    def __init__(self, model: nn.Module, patience: int) -> None:
        self._model, self._patience = model, patience
        self._loss, self._asked = math.inf, 0
        self.epoch = 0
        self.state_dict: dict[str, torch.Tensor] = {}

    def is_over(self, loss: float) -> bool:
        """Call once per epoch with the held-out loss, a finite number; returns True when training should stop."""
        self._asked += 1
        if loss < self._loss:
            self._loss, self.epoch = loss, self._asked
            self.state_dict = {key: value.detach().cpu().clone() for key, value in self._model.state_dict().items()}
        return self._asked - self.epoch >= self._patience


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
        raise DeviceError(
            f"device is {name}; this machine has {', '.join(available)}: write device: {available[-1]} in params.yaml, "
            "or device: auto for the fastest that is there"
        )
    if name == "cpu":
        _keep_freed_memory()
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return torch.device(name)


def _keep_freed_memory() -> None:
    """Has glibc's malloc keep up to 1 GiB that was freed, instead of giving it back to the kernel.

    Every batch frees the same megabytes and asks for them again; for the kernel to clear them each time takes a fifth
    of a step of TinyVGG.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(-1, 2**30)  # M_TRIM_THRESHOLD: bytes at the heap's end
    mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: what is larger goes back at once; 32 MiB is the most that malloc.h knows
