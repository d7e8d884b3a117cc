"""What the stages would have written for experiments, made quickly and without training."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from learn.evaluation.intervals import interval
from learn.evaluation.metrics import confusion, per_class, scores
from learn.evaluation.predictions import Predictions, as_file
from tasks.params import PARAMS_FILE, Params, parse_params
from tasks.workspace.paths import history_file, metrics_file, report_file, scored_file, state_dict_file
from tasks.workspace.report import STATE_DICT_KEY

DATASETS: dict[str, Any] = {
    "digits": {
        "source": {"name": "digits"},
        "split": {"test": 0.2, "validation": 0.1, "shuffle": True, "stratify": True, "seed": 42},
        "transform": {},
        "champion": {"metric": "accuracy"},
    },
    "line": {
        "source": {"name": "line", "weight": 0.7, "bias": 0.3, "start": 0.0, "stop": 1.0, "step": 0.02},
        "split": {"test": 0.2, "shuffle": False, "seed": 42},
        "transform": {},
        "champion": {"metric": "mae"},
    },
}
LOSSES = {"digits": "CrossEntropyLoss", "line": "L1Loss"}


def experiment(dataset: str, **settings: Any) -> dict[str, Any]:
    """An entry of `experiments` in params.yaml."""
    usual = {
        "dataset": dataset,
        "model": {"name": "mlp", "hidden_units": [64], "activation": "ReLU"},
        "loss": {"name": LOSSES[dataset]},
        "optimizer": {"name": "SGD", "lr": 0.1},
        "epochs": 3,
        "batch_size": 32,
        "seed": 42,
    }
    return usual | settings


def params_of(experiments: dict[str, dict[str, Any]]) -> Params:
    """Parameters with these experiments and their datasets, without MLflow."""
    used = {each["dataset"] for each in experiments.values()}
    flow: dict[str, Any] = {"timeouts": {"transform": None, "train": None}, "notify": [], "schedules": []}
    rest = {"device": "cpu", "threads": 1, "memory": "auto", "mirror": None, "tracking": None, "flow": flow}
    datasets = {name: dataset for name, dataset in DATASETS.items() if name in used}
    return parse_params({**rest, "datasets": datasets, "experiments": experiments}, PARAMS_FILE)


def predicted(dataset: str, samples: int, wrong: int, seed: int = 0) -> Predictions:
    """Predictions of which so many are wrong; for a regression, all are off by some hundredths."""
    random = np.random.default_rng(seed)
    if dataset == "line":
        truth = np.linspace(0, 1, samples, dtype=np.float32)[:, None]
        return Predictions(truth, truth + np.float32(wrong / 100) * random.normal(size=truth.shape), "md5", 0)
    targets = np.arange(samples) % 10
    answers = targets.copy()
    places = random.permutation(samples)[:wrong]
    answers[places] = (answers[places] + 1 + random.integers(9, size=wrong)) % 10
    return Predictions(targets, answers, "md5", 10)


def write_outputs(
    name: str, dataset: str, splits: dict[str, Predictions], curve: list[float], root: Path = Path()
) -> None:
    """Writes metrics, report, predictions, history and a state_dict of an experiment with one seed."""
    classes = tuple(map(str, range(splits["test"].classes)))
    values = {
        split: {"loss": curve[-1], **scores(found.targets, found.predictions, classes)}
        for split, found in splits.items()
    }
    held_out = next(iter(splits))
    others = {split: found for split, found in values.items() if split != "test"}
    report: dict[str, Any] = {
        "experiment": name,
        "dataset": dataset,
        STATE_DICT_KEY: name,
        "diagnosis": {"kind": "settled", "summary": "settled", "text": "settled"},
        "intervals": {split: _interval(dataset, found) for split, found in splits.items()},
    }
    if classes:
        test = splits["test"]
        report["per_class"] = per_class(test.targets, test.predictions, classes)
        report["confusion_matrix"] = confusion(test.targets, test.predictions, classes).tolist()
    numbers = values["test"] | {"parameters": 4810, "epochs": len(curve)} | others
    write(root / metrics_file(dataset, name), json.dumps(numbers).encode())
    write(root / report_file(dataset, name), json.dumps(report).encode())
    write(root / scored_file(dataset, name), as_file(splits))
    write(root / state_dict_file(name), bytes(20_000))
    write_history(root / history_file(name), held_out, curve)


def _interval(dataset: str, found: Predictions) -> dict[str, list[float]]:
    """The interval of the metric that decides; that of all metrics takes longer."""
    metric = DATASETS[dataset]["champion"]["metric"]
    measured = interval(metric, found.targets, found.predictions, classes=found.classes)
    assert measured
    return {metric: [measured.low, measured.high]}


def write_history(file: Path, held_out: str, curve: list[float]) -> None:
    """Writes the metrics of each epoch; the training loss is half of the held-out loss."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["epoch", "train/loss", f"{held_out}/loss"])
        writer.writerows([number, loss / 2, loss] for number, loss in enumerate(curve, start=1))


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
