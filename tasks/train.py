"""`data/transformed/D/training/` → `models/E/model.pt` and `plots/history/E.csv`, and a run in MLflow.

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
from tasks.stage import (
    atomic_folder,
    history_file,
    last_state_dict_file,
    run_stage,
    state_dict_file,
    write_atomically,
)
from tasks.tracking import TrainingRun, flatten

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

    from learn.training.augment import Augmentation
    from learn.training.loop import Epoch


STREAM = "memory: streamed in params.yaml reads them from their file, batch by batch"


@dataclass(frozen=True)
class Plan:
    """What is known before the first epoch."""

    assembled: Assembled
    model: nn.Module  # as it is before the first epoch, on the device
    augment: Augmentation | None
    summary: Any  # torchinfo's
    settings: dict[str, Any]  # the parameters of the run, flattened


def plan(params: Params, name: str) -> Plan:
    """Puts together what an experiment is trained with, and tries a batch without data."""
    import torch
    import torchinfo

    from learn.training.batch_check import try_batches
    from learn.training.build import build_optimizer
    from learn.training.device import use_device

    experiment = params.experiment(name)
    device = use_device(params.device, params.threads)
    with memory_told(f"train {name}: for the inputs", device, lambda: STREAM):
        assembled = assemble(params, name, "train", HELD_OUT)
    training, criterion, batch_size = assembled.splits["train"], assembled.criterion, assembled.batch_size
    model = assembled.new_model()
    with memory_told(f"train {name}: for the model", device, lambda: f"choose a smaller experiments.{name}.model"):
        model = assembled.on_device(model)
    samples = min(batch_size or len(training), len(training))
    try:
        try_batches(model, criterion, *training.batch(slice(0, 2)), len(training), batch_size)
    except BatchError as error:
        raise BatchError(f"experiments.{name}: {error}") from error
    planned = Plan(assembled, model, assembled.augmentation(), None, {})

    def advice() -> str:
        optimizer = build_optimizer(experiment.optimizer.name, experiment.optimizer.arguments, model)
        return _what_fits(name, planned, optimizer)

    with (
        memory_told(f"train {name}: for a batch of {samples:,}", device, advice),
        torch.random.fork_rng(devices=[]),  # it makes up inputs
    ):
        try:
            summary = torchinfo.summary(
                model,
                input_size=(samples, *assembled.info.shape),
                mode="eval",
                verbose=0,
                device=device,
                col_names=("input_size", "output_size", "num_params", "trainable"),
            )
        except RuntimeError as error:
            raise (error.__cause__ or error) from None  # the model's own
    settings = experiment.model_dump(exclude={"seed"}) | {"seed": experiment.seed}
    dataset = params.dataset(experiment.dataset)
    data = {"split": dataset.split.model_dump(), "transform": dataset.transform.model_dump()}
    settings = flatten(settings | data | {"device": str(device), "threads": params.threads})
    return replace(planned, summary=summary, settings=settings | {"parameters": summary.total_params})


def train(params: Params, name: str) -> str:
    """Trains an experiment; torch is imported while MLflow's process starts."""
    experiment = params.experiment(name)
    with TrainingRun(params.tracking, experiment.dataset, name) as run, ExitStack() as stack:
        print(f"train {name}: loading PyTorch")
        import torch
        import torchinfo
        from tqdm import tqdm

        from learn.training.build import build_optimizer, build_scheduler
        from learn.training.device import use_device
        from learn.training.early_stopping import EarlyStopping
        from learn.training.evaluate import refuse_not_finite_weights
        from learn.training.loop import fit
        from learn.training.splits import StreamedSplit
        from learn.training.state import State

        stack.enter_context(alone_on_gpu(f"train {name}", use_device(params.device, params.threads)))
        planned = plan(params, name)
        assembled, model, summary = planned.assembled, planned.model, planned.summary
        training, held_out = assembled.splits["train"], assembled.held_out
        print(
            f"train {name}: {summary.total_params:,} parameters, {len(training):,} samples, {assembled.device}, "
            f"inputs {'streamed' if isinstance(training, StreamedSplit) else 'resident'}"
        )
        if sys.stdout.isatty():
            print(summary)
        versions = {f"version.{library.__name__}": library.__version__ for library in (torch, torchinfo)}
        run.begin(planned.settings, versions, str(summary))

        optimizer = build_optimizer(experiment.optimizer.name, experiment.optimizer.arguments, model)
        scheduler = (
            build_scheduler(experiment.scheduler.name, experiment.scheduler.arguments, optimizer)
            if experiment.scheduler
            else None
        )
        if experiment.reseed:
            torch.manual_seed(experiment.seed)
        history: list[Epoch] = []
        stop = experiment.early_stopping
        best = EarlyStopping(model, stop.patience) if stop else None
        state = State(model, optimizer, scheduler, early_stopping=best)
        size = f"{assembled.batch_size or len(training):,}"
        told = memory_told(
            f"train {name}: for a batch of {size}", assembled.device, lambda: _what_fits(name, planned, optimizer)
        )
        bar = tqdm(total=experiment.epochs, desc=name, unit="epoch", disable=None)
        said = max(1, experiment.epochs // 100)  # into a log a line an epoch, or a hundred lines
        with bar, told:
            for epoch in fit(
                state,
                training,
                held_out,
                assembled.criterion,
                epochs=experiment.epochs,
                batch_size=assembled.batch_size,
                augment=planned.augment,
                clip_grad_norm=experiment.clip_grad_norm,
            ):
                history.append(epoch)
                run.log_epoch(epoch.number, epoch.metrics | {"samples_per_second": epoch.samples_per_second})
                line = _line(epoch, held_out.name)
                made = f"train {name}: epoch {epoch.number}/{experiment.epochs}, {line}"
                bar.set_postfix_str(line, refresh=False)
                bar.update()
                if bar.disable and epoch.number % said == 0:
                    print(made)

        refuse_not_finite_weights(model)
        with atomic_folder(state_dict_file(name).parent) as partial:
            last = model.state_dict()
            _save(best.state_dict if best else last, partial / state_dict_file(name).name)
            if best:
                print(f"train {name}: kept the best of {len(history)} epochs, {best.epoch}")
                _save(last, partial / last_state_dict_file(name).name)
        write_atomically(history_file(name), _as_csv(history))
        run.finish(state_dict_file(name), history_file(name), sum(epoch.seconds for epoch in history))
    return made


def _what_fits(name: str, planned: Plan, optimizer: Optimizer) -> str:
    """The end of the message about a full device: a batch size of which a step of training passes now."""
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
        return f"experiments.{name}.batch_size: {fits} would likely fit"
    return f"not even one sample a batch fits: choose a smaller experiments.{name}.model, or memory: streamed"


def _save(state_dict: dict[str, torch.Tensor], file: Path) -> None:
    import torch

    buffer = io.BytesIO()  # torch.save into a file would not say that the disk is full
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
    """One row an epoch; every digit of every number, and none that differs between two runs."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *history[0].metrics])
    writer.writerows([epoch.number, *map(repr, epoch.metrics.values())] for epoch in history)
    return text.getvalue().encode()


if __name__ == "__main__":
    run_stage(train, "experiments")
