"""Trains one trial of a sweep as the train stage would, with the data in memory and without writing files.

The state_dict has the bytes that `dvc repro` gives with the same settings; only its sha256 is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from learn.data.transformed import Info
from learn.errors import NotFiniteError, TrackwayError
from learn.training.history import as_csv
from tasks.assemble import HELD_OUT, Assembled, assemble
from tasks.gpu import alone_on_gpu, memory_told
from tasks.params import PARAMS_FILE, ExperimentConfig, Params, parse_params
from tasks.plan import check_batches, settings_of
from tasks.sweep.check import only
from tasks.workspace.files import samples_md5
from tasks.workspace.paths import evaluation_folder, training_folder

if TYPE_CHECKING:
    from learn.training.loop import Epoch
    from learn.training.state import State

COMPLETE, PRUNED, DIVERGED, FAILED = "complete", "pruned", "diverged", "failed"  # how a trial ended
LESS = "choose smaller values for experiments.{}.batch_size or its model"


@dataclass(frozen=True)
class Outcome:
    """How a trial ended, and what was measured."""

    ended: str  # COMPLETE, PRUNED, DIVERGED or FAILED
    why: str = ""  # the error's message if it is DIVERGED or FAILED
    metrics: dict[str, float] = field(
        default_factory=dict
    )  # of the held-out split, by their short names; COMPLETE only
    history: str = ""  # a CSV table with one row per epoch, as plots/history/E.csv
    settings: dict[str, Any] = field(default_factory=dict)  # flattened, as the parameters of a run in MLflow
    sha256: str = ""  # of the file with the state_dict that the train stage would write; COMPLETE only
    seconds: float = 0.0  # time that the epochs took


class Trainer:
    """Trains an experiment with changed settings, one after the other, on data that is loaded once.

    Args:
        data: The content of params.yaml.
        name: The experiment's name.
    """

    def __init__(self, data: dict[str, Any], name: str) -> None:
        self._data, self._name = data, name
        self._loaded: Assembled | None = None  # what was assembled for the first of the trials that read the same data

    def train(self, settings: dict[str, Any], goes_on: Callable[[Epoch], bool]) -> Outcome:
        """Trains with these settings, and measures the held-out split.

        Args:
            settings: The experiment, as params.yaml would have it.
            goes_on: Called after each epoch; training ends if it returns False.
        """
        from learn.training.device import use_device

        history: list[Epoch] = []
        flat: dict[str, Any] = {}
        try:
            params = parse_params(only(self._data, self._name, settings), PARAMS_FILE)
            device, what = use_device(params.device, params.threads), f"a trial of {self._name}"
            with alone_on_gpu(what, device), memory_told(what, device, lambda: LESS.format(self._name)):
                assembled = self._assembled(params)
                flat |= settings_of(params, assembled.experiment, assembled.device)
                return _fit(assembled, flat, history, goes_on)
        except NotFiniteError as error:
            return Outcome(DIVERGED, str(error), **_so_far(history, flat))
        except TrackwayError as error:
            return Outcome(FAILED, str(error), **_so_far(history, flat))

    def _assembled(self, params: Params) -> Assembled:
        """Returns what the trial is trained with; loads the splits unless the trial before had the same."""
        from learn.training.build import build_loss

        experiment = params.experiment(self._name)
        if self._loaded is None or _reads(self._loaded.experiment) != _reads(experiment):
            self._loaded = None  # first: the data of two trainings may be too much for the memory
            self._loaded = assemble(params, self._name, "train", HELD_OUT)
        loaded = self._loaded
        criterion = build_loss(experiment.loss.name, experiment.loss.arguments, loaded.info.classes)
        return replace(loaded, experiment=experiment, criterion=criterion.to(loaded.device))


def _reads(experiment: ExperimentConfig) -> tuple[str, float]:
    """Returns the settings that decide how the splits are loaded."""
    return experiment.memory_format, experiment.fraction


def _fit(assembled: Assembled, flat: dict[str, Any], history: list[Epoch], goes_on: Callable[[Epoch], bool]) -> Outcome:
    """Trains and measures a trial; adds to the flattened settings and to the history as it goes."""
    from learn.training.evaluate import refuse_not_finite_weights
    from learn.training.loop import fit
    from learn.training.state import as_file
    from tasks.evaluate import scored_on

    state = _new_state(assembled)
    flat["parameters"] = sum(parameter.numel() for parameter in state.model.parameters())
    flat["samples"] = len(assembled.splits["train"])
    options = assembled.fit_options(assembled.augmentation())
    for epoch in fit(state, assembled.splits["train"], assembled.held_out, assembled.criterion, options):
        history.append(epoch)
        if not goes_on(epoch):
            return Outcome(PRUNED, **_so_far(history, flat))
    refuse_not_finite_weights(state.model)
    kept = state.early_stopping.state_dict if state.early_stopping else state.model.state_dict()
    digest = hashlib.sha256(as_file(kept)).hexdigest()
    if state.early_stopping:
        state.model.load_state_dict(kept)
    split, classes = assembled.held_out, assembled.info.classes
    metrics = scored_on(state.model, split, assembled.criterion, assembled.batch_size, classes).metrics
    return Outcome(COMPLETE, metrics=metrics, sha256=digest, **_so_far(history, flat))


def _new_state(assembled: Assembled) -> State:
    """Returns the state before the first epoch; draws the random numbers that the train stage draws."""
    model = assembled.on_device(assembled.new_model())
    check_batches(assembled, model)
    return assembled.new_state(model)


def _so_far(history: list[Epoch], flat: dict[str, Any]) -> dict[str, Any]:
    """Returns what is known of a trial however it ends."""
    table = as_csv([epoch.metrics for epoch in history]).decode() if history else ""
    return {"history": table, "settings": flat, "seconds": sum(epoch.seconds for epoch in history)}


def data_of(dataset: str) -> tuple[str, str]:
    """Returns the name of a dataset's held-out split, which decides, and the md5 of its samples.

    Raises:
        DataError: The files are damaged.
    """
    training = training_folder(dataset)
    info = Info.read(training)
    return info.held_out, samples_md5(
        training if info.held_out in info.samples else evaluation_folder(dataset), info.held_out
    )
