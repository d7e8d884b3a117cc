"""Trains an experiment, and writes `models/E/model.pt`, `plots/history/E.csv` and a run in MLflow.

python -m tasks.train digits-mlp
"""

from __future__ import annotations

import csv
import io
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learn.errors import BatchError
from tasks.assemble import HELD_OUT, Assembled, assemble
from tasks.gpu import alone_on_gpu, free_memory, memory_told
from tasks.params import Params
from tasks.params.flatten import flatten
from tasks.stage import run_stage
from tasks.tracking.run import TrainingRun
from tasks.workspace.files import atomic_folder, write_atomically
from tasks.workspace.paths import history_file, last_state_dict_file, state_dict_file

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

    from learn.training.augment import Augmentation
    from learn.training.loop import Epoch
    from learn.training.state import State


STREAM = "memory: streamed in params.yaml reads them from their file, batch by batch"


@dataclass(frozen=True)
class Plan:
    """What is known before the first epoch."""

    assembled: Assembled
    model: nn.Module  # as it is before the first epoch, on the device
    augment: Augmentation | None
    summary: Any  # torchinfo's summary of the model
    settings: dict[str, Any]  # the parameters of the run, flattened


def plan(params: Params, name: str) -> Plan:
    """Assembles what an experiment is trained with, and checks a batch without data.

    Raises:
        DeviceError: The device is not available, or its memory is too small.
        DataError: A file of the data is damaged.
        BatchError: Model, loss and data do not fit each other.
    """
    from learn.training.batch_check import try_batches
    from learn.training.device import use_device

    experiment = params.experiment(name)
    device = use_device(params.device, params.threads)
    with memory_told(f"train {name}: for the inputs", device, lambda: STREAM):
        assembled = assemble(params, name, "train", HELD_OUT)
    training, batch_size = assembled.splits["train"], assembled.batch_size
    model = assembled.new_model()
    with memory_told(f"train {name}: for the model", device, lambda: f"choose a smaller experiments.{name}.model"):
        model = assembled.on_device(model)
    try:
        try_batches(model, assembled.criterion, *training.batch(slice(0, 2)), len(training), batch_size)
    except BatchError as error:
        raise BatchError(f"experiments.{name}: {error}") from error
    planned = Plan(assembled, model, assembled.augmentation(), None, {})
    summary = _summary(planned)
    settings = experiment.model_dump(exclude={"seed"}) | {"seed": experiment.seed}
    dataset = params.dataset(experiment.dataset)
    data = {"split": dataset.split.model_dump(), "transform": dataset.transform.model_dump()}
    settings = flatten(settings | data | {"device": str(device), "threads": params.threads})
    return replace(planned, summary=summary, settings=settings | {"parameters": summary.total_params})


def _summary(planned: Plan) -> Any:
    """Returns torchinfo's summary of the model for a whole batch."""
    import torch
    import torchinfo

    from learn.training.build import build_optimizer

    assembled, model = planned.assembled, planned.model
    samples = min(assembled.batch_size or sys.maxsize, len(assembled.splits["train"]))
    chosen = assembled.experiment.optimizer

    def advice() -> str:
        return _what_fits(planned, build_optimizer(chosen.name, chosen.arguments, model))

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


def train(params: Params, name: str) -> str:
    """Trains an experiment; torch is imported while MLflow's process starts."""
    experiment = params.experiment(name)
    with TrainingRun(params.tracking, experiment.dataset, name) as run, ExitStack() as stack:
        print(f"train {name}: loading PyTorch")
        import torch
        import torchinfo

        from learn.training.device import use_device
        from learn.training.evaluate import refuse_not_finite_weights

        stack.enter_context(alone_on_gpu(f"train {name}", use_device(params.device, params.threads)))
        planned = plan(params, name)
        _announce(planned)
        versions = {f"version.{library.__name__}": library.__version__ for library in (torch, torchinfo)}
        run.begin(planned.settings, versions, str(planned.summary))
        state = _new_state(planned)
        history = _train_epochs(planned, state, run)
        refuse_not_finite_weights(state.model)
        _write_state_dicts(name, state, len(history))
        write_atomically(history_file(name), _as_csv(history))
        run.finish(state_dict_file(name), history_file(name), sum(epoch.seconds for epoch in history))
    return _progress(planned, history[-1])


def _announce(planned: Plan) -> None:
    """Prints what is about to be trained, in a terminal with a table of the layers."""
    from learn.training.splits import StreamedSplit

    assembled, training = planned.assembled, planned.assembled.splits["train"]
    print(
        f"train {assembled.name}: {planned.summary.total_params:,} parameters, {len(training):,} samples, "
        f"{assembled.device}, inputs {'streamed' if isinstance(training, StreamedSplit) else 'resident'}"
    )
    if sys.stdout.isatty():
        print(planned.summary)


def _new_state(planned: Plan) -> State:
    """Returns the state before the first epoch; with `reseed`, seeds torch's generator for the order of the batches."""
    import torch

    from learn.training.build import build_optimizer, build_scheduler
    from learn.training.early_stopping import EarlyStopping
    from learn.training.state import State

    experiment, model = planned.assembled.experiment, planned.model
    optimizer = build_optimizer(experiment.optimizer.name, experiment.optimizer.arguments, model)
    chosen = experiment.scheduler
    scheduler = build_scheduler(chosen.name, chosen.arguments, optimizer) if chosen else None
    stop = experiment.early_stopping
    if experiment.reseed:
        torch.manual_seed(experiment.seed)
    return State(model, optimizer, scheduler, early_stopping=EarlyStopping(model, stop.patience) if stop else None)


def _train_epochs(planned: Plan, state: State, run: TrainingRun) -> list[Epoch]:
    """Trains, shows the progress, and sends each epoch to the run."""
    from tqdm import tqdm

    from learn.training.loop import FitOptions, fit

    assembled, experiment = planned.assembled, planned.assembled.experiment
    training = assembled.splits["train"]
    options = FitOptions(experiment.epochs, assembled.batch_size, planned.augment, experiment.clip_grad_norm)
    size = f"{assembled.batch_size or len(training):,}"
    told = memory_told(
        f"train {assembled.name}: for a batch of {size}",
        assembled.device,
        lambda: _what_fits(planned, state.optimizer),
    )
    bar = tqdm(total=experiment.epochs, desc=assembled.name, unit="epoch", disable=None)
    said = max(1, experiment.epochs // 100)  # epochs between two lines of a log, which gets about a hundred lines
    history: list[Epoch] = []
    with bar, told:
        for epoch in fit(state, training, assembled.held_out, assembled.criterion, options):
            history.append(epoch)
            run.log_epoch(epoch.number, epoch.metrics | {"samples_per_second": epoch.samples_per_second})
            bar.set_postfix_str(_line(epoch, assembled.held_out.name), refresh=False)
            bar.update()
            if bar.disable and epoch.number % said == 0:
                print(_progress(planned, epoch))
    return history


def _progress(planned: Plan, epoch: Epoch) -> str:
    """Returns an epoch's line for a log."""
    assembled = planned.assembled
    line = _line(epoch, assembled.held_out.name)
    return f"train {assembled.name}: epoch {epoch.number}/{assembled.experiment.epochs}, {line}"


def _write_state_dicts(name: str, state: State, epochs: int) -> None:
    """Writes the last epoch's state_dict; with early stopping the best epoch's, and the last one's beside it."""
    last, stopping = state.model.state_dict(), state.early_stopping
    with atomic_folder(state_dict_file(name).parent) as partial:
        _save(stopping.state_dict if stopping else last, partial / state_dict_file(name).name)
        if stopping:
            print(f"train {name}: kept the best of {epochs} epochs, {stopping.epoch}")
            _save(last, partial / last_state_dict_file(name).name)


def _what_fits(planned: Plan, optimizer: Optimizer) -> str:
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


def _save(state_dict: dict[str, torch.Tensor], file: Path) -> None:
    import torch

    buffer = io.BytesIO()  # torch.save into a file does not raise an OSError if the disk is full
    torch.save({key: value.cpu().contiguous() for key, value in state_dict.items()}, buffer)
    file.write_bytes(buffer.getvalue())


def _line(epoch: Epoch, held_out: str) -> str:
    values = [
        f"{key} {epoch.metrics[key]:.4f}"
        for part in ("train", held_out)
        for key in (f"{part}/loss", f"{part}/accuracy")
        if key in epoch.metrics
    ]
    return ", ".join([*values, f"{epoch.samples_per_second:,.0f} samples/s"])


def _as_csv(history: list[Epoch]) -> bytes:
    """Returns a table with one row per epoch, with all digits, and without numbers that differ between runs."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *history[0].metrics])
    writer.writerows([epoch.number, *map(repr, epoch.metrics.values())] for epoch in history)
    return text.getvalue().encode()


if __name__ == "__main__":
    run_stage(train, "experiments")
