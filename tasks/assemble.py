"""Assembles what a configured experiment needs: device, splits, criterion, model, augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from learn.data.transformed import Info
from learn.errors import DataError, only_data
from learn.training.defaults import INTERVAL
from tasks.memory import is_streamed
from tasks.params import ExperimentConfig, Params
from tasks.workspace.paths import evaluation_folder, state_dict_file, training_folder

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

    from learn.training.augment import Augmentation
    from learn.training.criterion import Criterion
    from learn.training.loop import FitOptions
    from learn.training.ranks import Ranks
    from learn.training.splits import Split
    from learn.training.state import State

HELD_OUT = "held out"  # names the split that is measured after each epoch, validation or test


@dataclass(frozen=True)
class Assembled:
    """What an experiment is trained or measured with, on its device."""

    name: str
    experiment: ExperimentConfig
    device: torch.device
    info: Info  # describes the data that a training reads
    folders: dict[str, Path]  # split → the folder of its files
    splits: dict[str, Split]
    criterion: Criterion
    mirror: str | None  # a folder or an address where pretrained weights are looked for first
    is_pretrained: bool = True  # False: a new model keeps random weights, for only its form matters

    @property
    def held_out(self) -> Split:
        """The split that is measured after each epoch."""
        return self.splits[self.info.held_out]

    @property
    def batch_size(self) -> int | None:
        """Number of samples in a batch; None for all samples at once."""
        return None if self.experiment.batch_size == "full" else self.experiment.batch_size

    def new_model(self) -> nn.Module:
        """Seeds torch's generator, and returns the model as it is before the first epoch, on the CPU.

        Pretrained weights are downloaded if they are not there.

        Raises:
            DownloadError: No source has the weights.
            DataError: The weights do not fit the model.
        """
        import torch

        from learn.models.blocks.backbone import Backbone

        torch.manual_seed(self.experiment.seed)
        model = self._build_model()
        if isinstance(model, Backbone) and model.weights and self.is_pretrained:
            from tasks.weights import bring_weights

            model.load_pretrained(bring_weights(self.name, model.weights, self.mirror))
        return model

    def trained_model(self, seed: int | None = None) -> nn.Module:
        """Returns the model with the weights in `models/E/model.pt`, on the CPU and in evaluation mode.

        Args:
            seed: One of several seeds, whose weights are in a folder of their own.

        Raises:
            DataError: The file is damaged.
        """
        import torch

        model, file = self._build_model(), state_dict_file(self.name, seed)
        with only_data(file, f"train@{self.name}"):
            model.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
        return model.eval()

    def _build_model(self) -> nn.Module:
        from learn.training.build import build_model

        chosen = self.experiment.model
        return build_model(chosen.name, chosen.arguments, self.info.shape, self.criterion.output_size)

    def new_state(self, model: nn.Module) -> State:
        """Returns the state before the first epoch; with `reseed`, seeds torch's generator for the batches' order.

        Args:
            model: What `new_model` returned, on the device; with `compile`, its first batch will compile it.

        Raises:
            DeviceError: The device does not compute in the experiment's precision, or nothing can be compiled here.
        """
        import torch

        from learn.training.build import build_scheduler
        from learn.training.early_stopping import EarlyStopping
        from learn.training.precision import check_machine, compile_model, new_scaler
        from learn.training.state import State

        experiment = self.experiment
        check_machine(f"experiments.{self.name}", self.device, experiment.precision, compiled=experiment.compile)
        if experiment.compile:
            compile_model(model)
        optimizer = self.new_optimizer(model)
        chosen, stop = experiment.scheduler, experiment.early_stopping
        scheduler = build_scheduler(chosen.name, chosen.arguments, optimizer) if chosen else None
        if experiment.reseed:
            torch.manual_seed(experiment.seed)
        stopping = EarlyStopping(model, stop.patience) if stop else None
        scaler = new_scaler(self.device, experiment.precision)
        return State(model, optimizer, scheduler, early_stopping=stopping, scaler=scaler)

    def new_optimizer(self, model: nn.Module) -> Optimizer:
        """Returns the optimizer of the model's parameters."""
        from learn.training.build import build_optimizer

        chosen = self.experiment.optimizer
        return build_optimizer(chosen.name, chosen.arguments, model, chosen.no_decay, chosen.groups)

    def fit_options(self, augment: Augmentation | None, ranks: Ranks | None = None) -> FitOptions:
        """Returns how the experiment trains.

        Args:
            augment: What `augmentation` returned.
            ranks: The processes that train together; None if this one trains alone.
        """
        from learn.training.loop import FitOptions
        from learn.training.ranks import ALONE

        experiment = self.experiment
        interval = experiment.scheduler.interval if experiment.scheduler else INTERVAL
        return FitOptions(
            experiment.epochs,
            self.batch_size,
            augment,
            experiment.clip_grad_norm,
            scheduler_interval=interval,
            precision=experiment.precision,
            ranks=ranks or ALONE,
        )

    def on_device(self, model: nn.Module) -> nn.Module:
        """Moves the model to the device and into the memory format of the splits."""
        memory_format = self.held_out.memory_format
        return model.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]

    def augmentation(self) -> Augmentation | None:
        """Returns the augmentation of the train split, which must be loaded; None if there is none."""
        from learn.training.augment import Augmentation, value_span

        if not self.experiment.augmentation:
            return None
        steps = [(step.name, step.arguments) for step in self.experiment.augmentation]
        return Augmentation(steps, len(self.info.classes), self.info.scale, value_span(self.splits["train"]))


def assemble(params: Params, name: str, *splits: str) -> Assembled:
    """Loads what an experiment is trained or measured with.

    Args:
        params: The parameters.
        name: The experiment's name.
        splits: Splits to load: `train`, `test`, or HELD_OUT.

    Raises:
        ParamsError: There is no such experiment.
        DeviceError: The device is not available.
        DataError: A file of the data is damaged, or the experiment's `fraction` leaves a class without samples.
    """
    from learn.training.build import build_loss
    from learn.training.device import use_device
    from learn.training.splits import load_split, split_bytes

    experiment = params.experiment(name)
    device = use_device(params.device, params.threads)
    training, evaluation = training_folder(experiment.dataset), evaluation_folder(experiment.dataset)
    info = Info.read(training)
    wanted = [info.held_out if split == HELD_OUT else split for split in splits]
    folders = {split: training if split in info.samples else evaluation for split in wanted}
    shares = {split: experiment.fraction if split == "train" else 1.0 for split in wanted}
    size = sum(shares[split] * split_bytes(folder, split) for split, folder in folders.items())
    streamed = is_streamed(params.memory, size, device)
    loaded = {
        split: load_split(folder, split, memory_format=experiment.memory_format, streamed=streamed)
        for split, folder in folders.items()
    }
    if shares.get("train", 1.0) < 1:
        loaded["train"] = _fraction_of(loaded["train"], params, name, info.classes)
    loaded = {split: part.to(device) for split, part in loaded.items()}
    criterion = build_loss(experiment.loss.name, experiment.loss.arguments, info.classes).to(device)
    return Assembled(name, experiment, device, info, folders, loaded, criterion, params.first_mirror)


def _fraction_of(whole: Split, params: Params, name: str, classes: tuple[str, ...]) -> Split:
    """Returns the samples that an experiment trains on, if they are not all.

    Raises:
        DataError: None of them is of a class that the whole split has.
    """
    from learn.training.fraction import chosen_indices

    experiment = params.experiment(name)
    drawn, targets = params.dataset(experiment.dataset).split, whole.targets.numpy()
    index = chosen_indices(targets, experiment.fraction, stratify=drawn.stratify, seed=drawn.seed)
    missing = set(targets.tolist()) - set(targets[index].tolist()) if classes else set()
    if missing:
        key = f"datasets.{experiment.dataset}.split"
        advice = "" if drawn.stratify else f", or give {key} shuffle: true and stratify: true"
        raise DataError(
            f"experiments.{name}.fraction is {experiment.fraction}: of {len(targets):,} training samples it leaves "
            f"{len(index):,}, and none of {', '.join(classes[target] for target in sorted(missing))}; set a larger "
            f"fraction{advice}"
        )
    return whole.only(index)
