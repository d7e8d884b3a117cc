"""Trains an experiment, and writes `models/E/model.pt`, `plots/history/E.csv` and a run in MLflow.

With several seeds it writes `models/E/seed-N/` for each, their mean curves, and a run with a child run for each.

python -m tasks.train digits-mlp
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from learn.training.history import History, as_csv, mean_history, read_history
from tasks.gpu import alone_on_gpu, memory_told
from tasks.kept import kept_seeds
from tasks.params import Params
from tasks.plan import Plan, plan, what_fits
from tasks.stage import run_stage
from tasks.torchrun import is_first, is_rank, joined, process_count, run_ranks
from tasks.tracking.liveness import now_ms
from tasks.tracking.names import store_in
from tasks.tracking.run import TrainingRun
from tasks.tracking.tags import REBUILT
from tasks.workspace.files import atomic_folder, write_atomically
from tasks.workspace.paths import history_file, last_state_dict_file, models_folder, state_dict_file, training_of

if TYPE_CHECKING:
    from learn.training.loop import Epoch
    from learn.training.state import State
    from tasks.assemble import Assembled


def train(params: Params, name: str) -> str:
    """Trains an experiment; torch is imported while MLflow's process starts."""
    experiment = params.experiment(name)
    if experiment.devices != 1 and not is_rank():
        _train_on_devices(params, name)
    store = store_in(params) if is_first() else None
    with TrainingRun(store, experiment.dataset, name) as run, ExitStack() as stack:
        print(f"train {name}: loading PyTorch")
        import torch
        import torchinfo

        from learn.training.device import use_device

        device = use_device(params.device, params.threads)
        ranks = stack.enter_context(joined(device))
        stack.enter_context(alone_on_gpu(f"train {name}", device))
        planned = plan(params, name, ranks)
        _announce(planned)
        versions = {f"version.{library.__name__}": library.__version__ for library in (torch, torchinfo)}
        run.begin(planned.settings, versions, str(planned.summary))
        if experiment.seeds:
            trained = _train_seeds(planned, experiment.seeds, run, versions)
        else:
            with _new_models_folder(name) as partial:
                trained = _train(planned, run, partial)
        if is_first():
            write_atomically(history_file(name), as_csv(trained.history))
            run.finish(models_folder(name), history_file(name), trained.seconds)
    last = _line(trained.last, planned.assembled.held_out.name)
    seeds = f"the mean of {len(experiment.seeds)} seeds" if experiment.seeds else f"{len(trained.history)} epochs"
    return f"train {name}: {seeds}, {last}"


def _train_on_devices(params: Params, name: str) -> None:
    """Trains in a process for each device, and ends this one; returns if there is one device."""
    import torch

    from learn.training.device import use_device

    device = use_device(params.device, params.threads)
    processes = process_count(f"experiments.{name}.devices", params.experiment(name).devices, device)
    if processes == 1:
        return
    with ExitStack() as stack:
        for number in range(processes if device.type == "cuda" else 0):  # in the same order in each process
            stack.enter_context(alone_on_gpu(f"train {name}", torch.device("cuda", number)))
        print(f"train {name}: {processes} processes, each on {'a GPU' if device.type == 'cuda' else 'the CPU'}")
        run_ranks("tasks.train", name, processes)


def _new_models_folder(name: str) -> AbstractContextManager[Path]:
    """Returns a new folder, which becomes `models/E/` when its block ends if this is the first of several processes."""
    if is_first():
        return atomic_folder(models_folder(name))
    return _temporary_folder()


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Trained:
    """What one training gave, or the mean of several."""

    history: History  # the metrics of each epoch
    last: dict[str, float]  # the metrics of the last epoch; of several trainings the mean of each one's own last
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
    planned.model.cpu()  # a device has room for one model
    with _new_models_folder(name) as partial:
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
            one.model.cpu()
            ended[seed] = now_ms()
    for seed in seeds if is_first() else ():
        files = training_of(name, seed), history_file(name, seed)
        run.finish_seed(seed, *files, found[seed].seconds, ended[seed])
    history = mean_history([each.history for each in found.values()])
    for number, metrics in enumerate(history, 1):
        run.log_epoch(number, metrics)
    (last,) = mean_history([[each.last] for each in found.values()])
    return Trained(history, last, sum(each.seconds or 0 for each in found.values()) or None)


def _keep(planned: Plan, run: TrainingRun, files: dict[str, bytes], folder: Path) -> Trained:
    """Writes a seed's files, which an earlier training has made, into the folder, and sends its run again."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    history = read_history(folder / history_file(planned.assembled.name, planned.seed).name)
    run.begin(planned.settings, {REBUILT: "true"}, str(planned.summary), planned.seed)
    for number, metrics in enumerate(history, 1):
        run.log_epoch(number, metrics, planned.seed)
    return Trained(history, history[-1], None)


def _train(planned: Plan, run: TrainingRun, folder: Path) -> Trained:
    """Trains once, and writes the state_dict into the folder."""
    from learn.training.evaluate import refuse_not_finite_weights

    state = planned.assembled.new_state(planned.ranks.with_common_statistics(planned.model))
    epochs = _train_epochs(planned, state, run)
    refuse_not_finite_weights(state.model)
    _write_state_dicts(planned, folder, state, len(epochs))
    return Trained([epoch.metrics for epoch in epochs], epochs[-1].metrics, sum(epoch.seconds for epoch in epochs))


def _announce(planned: Plan) -> None:
    """Prints what is about to be trained, in a terminal with a table of the layers."""
    from learn.training.splits import StreamedSplit

    assembled, training = planned.assembled, planned.assembled.splits["train"]
    print(
        f"train {assembled.name}: {planned.summary.total_params:,} parameters, {_samples(assembled)}, "
        f"{assembled.device}, inputs {'streamed' if isinstance(training, StreamedSplit) else 'resident'}"
    )
    if (assembled.batch_size or 0) > len(training):
        print(
            f"train {assembled.name}: batch_size is {assembled.batch_size}, and there are {len(training):,} samples: "
            "each epoch is one batch"
        )
    if sys.stdout.isatty():
        print(planned.summary)


def _samples(assembled: Assembled) -> str:
    """Returns the number of training samples as text, and which part of all they are."""
    samples, fraction = len(assembled.splits["train"]), assembled.experiment.fraction
    text = f"{samples:,} samples"
    return text if fraction == 1 else f"{text} ({100 * fraction:g} % of {assembled.info.samples['train']:,})"


def _train_epochs(planned: Plan, state: State, run: TrainingRun) -> list[Epoch]:
    """Trains, shows the progress, and sends each epoch to the run."""
    from tqdm import tqdm

    from learn.training.loop import fit

    assembled, experiment = planned.assembled, planned.assembled.experiment
    training = assembled.splits["train"]
    options = assembled.fit_options(planned.augment, planned.ranks)
    size = f"{assembled.batch_size or len(training):,}"
    told = memory_told(
        f"train {assembled.name}: for a batch of {size}",
        assembled.device,
        lambda: what_fits(planned, state.optimizer),
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
    from learn.training.state import as_file

    name, last, stopping = planned.assembled.name, state.model.state_dict(), state.early_stopping
    (folder / state_dict_file(name).name).write_bytes(as_file(stopping.state_dict if stopping else last))
    if stopping:
        print(f"train {planned.title}: kept the best of {epochs} epochs, {stopping.epoch}")
        (folder / last_state_dict_file(name).name).write_bytes(as_file(last))


def _line(metrics: dict[str, float], held_out: str, samples_per_second: float | None = None) -> str:
    names = [f"{part}/{metric}" for part in ("train", held_out) for metric in ("loss", "accuracy")]
    values = [f"{name} {metrics[name]:.4f}" for name in names if name in metrics]
    return ", ".join(values + ([f"{samples_per_second:,.0f} samples/s"] if samples_per_second else []))


if __name__ == "__main__":
    run_stage(train, "experiments")
