"""Trains an experiment, and writes `models/E/model.pt`, `plots/history/E.csv` and a run in MLflow.

With several seeds it writes `models/E/seed-N/` for each, their mean curves, and a run with a child run for each.

python -m tasks.train digits-mlp
"""

from __future__ import annotations

import io
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learn.errors import BatchError
from learn.training.history import History, as_csv, mean_history, read_history
from tasks.assemble import HELD_OUT, Assembled, assemble
from tasks.gpu import alone_on_gpu, free_memory, memory_told
from tasks.kept import kept_seeds
from tasks.params import Params
from tasks.params.flatten import flatten
from tasks.stage import run_stage
from tasks.tracking.liveness import now_ms
from tasks.tracking.run import TrainingRun
from tasks.tracking.tags import REBUILT
from tasks.workspace.files import atomic_folder, write_atomically
from tasks.workspace.paths import history_file, last_state_dict_file, models_folder, state_dict_file, training_of

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
    seed: int | None = None  # one of several seeds; None if the experiment has one

    @property
    def title(self) -> str:
        """The experiment's name, with the seed if there are several."""
        return self.assembled.name if self.seed is None else f"{self.assembled.name}, seed {self.seed}"

    def with_seed(self, seed: int) -> Plan:
        """Returns the plan of another seed, with a new model."""
        assembled = replace(self.assembled, experiment=self.assembled.experiment.with_seed(seed))
        settings = {key: value for key, value in self.settings.items() if key != "seeds"} | {"seed": seed}
        model = assembled.on_device(assembled.new_model())
        return replace(self, assembled=assembled, model=model, settings=settings, seed=seed)


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
    assembled = replace(assembled, experiment=experiment.with_seed(experiment.trainings[0]))
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
    seeds = {"seed": experiment.seed} if experiment.seeds is None else {"seeds": experiment.seeds}
    settings = experiment.model_dump(exclude={"seed", "seeds"}) | seeds
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

        stack.enter_context(alone_on_gpu(f"train {name}", use_device(params.device, params.threads)))
        planned = plan(params, name)
        _announce(planned)
        versions = {f"version.{library.__name__}": library.__version__ for library in (torch, torchinfo)}
        run.begin(planned.settings, versions, str(planned.summary))
        if experiment.seeds:
            trained = _train_seeds(planned, experiment.seeds, run, versions)
        else:
            with atomic_folder(models_folder(name)) as partial:
                trained = _train(planned, run, partial)
        write_atomically(history_file(name), as_csv(trained.history))
        run.finish(models_folder(name), history_file(name), trained.seconds)
    last = _line(trained.history[-1], planned.assembled.held_out.name)
    seeds = f"the mean of {len(experiment.seeds)} seeds" if experiment.seeds else f"{len(trained.history)} epochs"
    return f"train {name}: {seeds}, {last}"


@dataclass(frozen=True)
class Trained:
    """What one training gave, or the mean of several."""

    history: History  # the metrics of each epoch
    seconds: float | None  # time that the epochs took; None if nothing was trained


def _train_seeds(planned: Plan, seeds: list[int], run: TrainingRun, versions: dict[str, str]) -> Trained:
    """Trains with each seed, unless its files are kept, and writes all files at once.

    Args:
        planned: The plan of the first seed.
        seeds: All seeds.
        run: The experiment's run.
        versions: Tags for the seeds' runs.
    """
    name, found, ended = planned.assembled.name, dict[int, Trained](), dict[int, int]()
    kept = kept_seeds(name, seeds)
    with atomic_folder(models_folder(name)) as partial:
        for seed in seeds:
            folder = partial / training_of(name, seed).name
            folder.mkdir()
            one = planned.with_seed(seed)
            if seed in kept:
                print(f"train {one.title}: kept, for nothing that it depends on has changed")
                found[seed] = _keep(one, run, kept[seed], folder)
            else:
                run.begin(one.settings, versions, str(one.summary), seed)
                found[seed] = _train(one, run, folder)
                (folder / history_file(name, seed).name).write_bytes(as_csv(found[seed].history))
            ended[seed] = now_ms()
    for seed in seeds:
        files = training_of(name, seed), history_file(name, seed)
        run.finish_seed(seed, *files, found[seed].seconds, ended[seed])
    history = mean_history([each.history for each in found.values()])
    for number, metrics in enumerate(history, 1):
        run.log_epoch(number, metrics)
    return Trained(history, sum(each.seconds or 0 for each in found.values()) or None)


def _keep(planned: Plan, run: TrainingRun, files: dict[str, bytes], folder: Path) -> Trained:
    """Writes a seed's files, which an earlier training has made, into the folder, and sends its run again."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    history = read_history(folder / history_file(planned.assembled.name, planned.seed).name)
    run.begin(planned.settings, {REBUILT: "true"}, str(planned.summary), planned.seed)
    for number, metrics in enumerate(history, 1):
        run.log_epoch(number, metrics, planned.seed)
    return Trained(history, None)


def _train(planned: Plan, run: TrainingRun, folder: Path) -> Trained:
    """Trains once, and writes the state_dict into the folder."""
    from learn.training.evaluate import refuse_not_finite_weights

    state = _new_state(planned)
    epochs = _train_epochs(planned, state, run)
    refuse_not_finite_weights(state.model)
    _write_state_dicts(planned, folder, state, len(epochs))
    return Trained([epoch.metrics for epoch in epochs], sum(epoch.seconds for epoch in epochs))


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
    bar = tqdm(total=experiment.epochs, desc=planned.title, unit="epoch", disable=None)
    said = max(1, experiment.epochs // 100)  # epochs between two lines of a log, which gets about a hundred lines
    history: list[Epoch] = []
    with bar, told:
        for epoch in fit(state, training, assembled.held_out, assembled.criterion, options):
            history.append(epoch)
            speed = epoch.samples_per_second
            run.log_epoch(epoch.number, epoch.metrics | {"samples_per_second": speed}, planned.seed)
            bar.set_postfix_str(_line(epoch.metrics, assembled.held_out.name, speed), refresh=False)
            bar.update()
            if bar.disable and epoch.number % said == 0:
                print(_progress(planned, epoch))
    return history


def _progress(planned: Plan, epoch: Epoch) -> str:
    """Returns an epoch's line for a log."""
    assembled = planned.assembled
    line = _line(epoch.metrics, assembled.held_out.name, epoch.samples_per_second)
    return f"train {planned.title}: epoch {epoch.number}/{assembled.experiment.epochs}, {line}"


def _write_state_dicts(planned: Plan, folder: Path, state: State, epochs: int) -> None:
    """Writes the last epoch's state_dict; with early stopping the best epoch's, and the last one's beside it."""
    name, last, stopping = planned.assembled.name, state.model.state_dict(), state.early_stopping
    _save(stopping.state_dict if stopping else last, folder / state_dict_file(name).name)
    if stopping:
        print(f"train {planned.title}: kept the best of {epochs} epochs, {stopping.epoch}")
        _save(last, folder / last_state_dict_file(name).name)


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


def _line(metrics: dict[str, float], held_out: str, samples_per_second: float | None = None) -> str:
    names = [f"{part}/{metric}" for part in ("train", held_out) for metric in ("loss", "accuracy")]
    values = [f"{name} {metrics[name]:.4f}" for name in names if name in metrics]
    return ", ".join(values + ([f"{samples_per_second:,.0f} samples/s"] if samples_per_second else []))


if __name__ == "__main__":
    run_stage(train, "experiments")
