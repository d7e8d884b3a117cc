"""The paths of all files and folders that stages read and write, below the project's folder."""

from __future__ import annotations

from pathlib import Path

from learn.data.transformed import EVALUATION, TRAINING

REPORT = "report.json"  # the file in data/transformed/D/ with what the checks of photos or of a table found


def raw_folder(dataset: str) -> Path:
    """Returns the folder that the download stage writes."""
    return Path("data/raw") / dataset


def weights_file(name: str, sha256: str) -> Path:
    """Returns the place of a file with pretrained weights; no dataset's name begins with an underscore.

    Args:
        name: The file's name.
        sha256: The first digits of its sha256, at least 8.
    """
    return raw_folder("_weights") / sha256[:8] / name


def split_folder(dataset: str) -> Path:
    """Returns the folder that the split stage writes."""
    return Path("data/split") / dataset


def transformed_folder(dataset: str) -> Path:
    """Returns the folder that the transform stage writes."""
    return Path("data/transformed") / dataset


def training_folder(dataset: str) -> Path:
    """Returns the folder of the transformed splits that a training reads."""
    return transformed_folder(dataset) / TRAINING


def evaluation_folder(dataset: str) -> Path:
    """Returns the folder of the transformed split that an evaluation reads besides."""
    return transformed_folder(dataset) / EVALUATION


def models_folder(experiment: str) -> Path:
    """Returns the folder that the train stage writes."""
    return Path("models") / experiment


def training_of(experiment: str, seed: int | None = None) -> Path:
    """Returns the folder of one training: a folder of its own for each seed if there are several.

    Args:
        experiment: Name of the experiment.
        seed: The seed if the experiment has several; None if it has one.
    """
    return models_folder(experiment) if seed is None else models_folder(experiment) / f"seed-{seed}"


def state_dict_file(experiment: str, seed: int | None = None) -> Path:
    """Returns the file of the kept weights: the best epoch's with early stopping, otherwise the last epoch's."""
    return training_of(experiment, seed) / "model.pt"


def state_dict_files(models: Path) -> list[Path]:
    """Returns the files of kept weights in the folder that a train stage wrote: one, or one for each seed, in order."""
    of_seeds = {int(file.parent.name.removeprefix("seed-")): file for file in models.glob("seed-*/model.pt")}
    return [of_seeds[seed] for seed in sorted(of_seeds)] or [models / "model.pt"]


def last_state_dict_file(experiment: str, seed: int | None = None) -> Path:
    """Returns the file of the last epoch's weights, which only early stopping writes."""
    return training_of(experiment, seed) / "last.pt"


def history_file(experiment: str, seed: int | None = None) -> Path:
    """Returns the file with the metrics of each epoch; without a seed, their means if there are several seeds."""
    return (
        Path("plots/history") / f"{experiment}.csv" if seed is None else training_of(experiment, seed) / "history.csv"
    )


def metrics_file(dataset: str, experiment: str) -> Path:
    """Returns the file with an experiment's metrics on the held-out splits."""
    return Path("metrics") / dataset / f"{experiment}.json"


def report_file(dataset: str, experiment: str) -> Path:
    """Returns the file with the details of an experiment's evaluation."""
    return Path("metrics") / dataset / f"{experiment}.report.json"


def scored_file(dataset: str, experiment: str) -> Path:
    """Returns the file with an experiment's predictions for each sample of the held-out splits."""
    return Path("metrics") / dataset / f"{experiment}.predictions.npz"


def predictions_file(experiment: str) -> Path:
    """Returns the file with an experiment's predictions on the test split, for DVC's plot."""
    return Path("plots/predictions") / f"{experiment}.csv"


def comparison_file(dataset: str) -> Path:
    """Returns the file with the comparison of a dataset's experiments."""
    return Path("metrics") / f"{dataset}.csv"
