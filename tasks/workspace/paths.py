"""Where things are in the project's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from learn.data.transformed import EVALUATION, TRAINING

if TYPE_CHECKING:
    pass


REPORT = "report.json"  # in data/transformed/D/: what the checks of photos found


def raw_folder(dataset: str) -> Path:
    return Path("data/raw") / dataset


def split_folder(dataset: str) -> Path:
    return Path("data/split") / dataset


def transformed_folder(dataset: str) -> Path:
    return Path("data/transformed") / dataset


def training_folder(dataset: str) -> Path:
    """What a training reads."""
    return transformed_folder(dataset) / TRAINING


def evaluation_folder(dataset: str) -> Path:
    """What an evaluation reads beside that."""
    return transformed_folder(dataset) / EVALUATION


def state_dict_file(experiment: str) -> Path:
    return Path("models") / experiment / "model.pt"


def last_state_dict_file(experiment: str) -> Path:
    """Beside the best epoch's, where early stopping keeps that one."""
    return Path("models") / experiment / "last.pt"


def history_file(experiment: str) -> Path:
    return Path("plots/history") / f"{experiment}.csv"


def metrics_file(dataset: str, experiment: str) -> Path:
    return Path("metrics") / dataset / f"{experiment}.json"


def report_file(dataset: str, experiment: str) -> Path:
    return Path("metrics") / dataset / f"{experiment}.report.json"


def predictions_file(experiment: str) -> Path:
    return Path("plots/predictions") / f"{experiment}.csv"


def comparison_file(dataset: str) -> Path:
    return Path("metrics") / f"{dataset}.csv"
