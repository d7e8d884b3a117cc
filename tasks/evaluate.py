"""Measures a trained model on the held-out splits, and adds what it finds to the experiment's run in MLflow.

Reads `models/E/`, and writes `metrics/D/E.json`, its report and `plots/predictions/E.csv`. The validation split, if
there is one, decides between experiments; the test split is measured to be reported.

python -m tasks.evaluate digits-mlp
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from math import fsum
from statistics import stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from learn.data.transformed import YARDSTICKS
from learn.errors import NotFiniteError, StoreUnreachable
from learn.evaluation.predictions import Predictions, as_file
from learn.training.history import read_history
from tasks.assemble import HELD_OUT, Assembled, assemble
from tasks.gpu import alone_on_gpu, memory_told
from tasks.params import Params
from tasks.stage import run_stage
from tasks.workspace.files import samples_md5, sha256_of, write_atomically
from tasks.workspace.paths import (
    evaluation_folder,
    history_file,
    metrics_file,
    models_folder,
    predictions_file,
    report_file,
    scored_file,
    state_dict_files,
)
from tasks.workspace.report import STATE_DICT_KEY, TEST_DATA_KEY, VALIDATION_DATA_KEY

if TYPE_CHECKING:
    from torch import nn

    from learn.evaluation.diagnosis import Diagnosis
    from learn.latency import Latency
    from learn.training.criterion import Criterion
    from learn.training.splits import Split

DIGITS = 4  # of a probability that is kept; those behind them differ between processors


Scores = dict[str, dict[str, float]]  # split → metric → value


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a trained experiment on its held-out splits."""

    metrics: Scores  # the split that decides is the first; the means if there are several seeds
    by_seed: dict[int, Scores]  # seed → its metrics; empty if there is one seed
    diagnosis: Diagnosis
    counts: dict[str, int]  # number of parameters and of epochs
    report: dict[str, Any]  # the content of metrics/D/E.report.json
    texts: dict[str, str]  # file → content, for MLflow
    test: Split
    criterion: Criterion
    model: nn.Module  # of several seeds the one with the lowest loss on the split that decides
    chosen: int | None  # its seed; None if there is one seed
    predictions: dict[str, Predictions]  # on each split
    latency: Latency  # of that model; it differs from one measurement to the next, so no output has it

    @property
    def chosen_predictions(self) -> np.ndarray:
        """What that model predicts on the test split: (N,) int64, or (N, 1) float32."""
        test = self.predictions["test"].by_seed
        return test[list(self.by_seed).index(self.chosen)] if self.chosen is not None else test[0]

    @property
    def sd(self) -> Scores:
        """The standard deviation of each metric over the seeds; empty if there is one seed."""
        if not self.by_seed:
            return {}
        each = list(self.by_seed.values())
        return {part: {key: stdev(one[part][key] for one in each) for key in self.metrics[part]} for part in each[0]}


def evaluate(params: Params, name: str) -> str:
    """Measures a trained experiment on the test part and, if there is one, the validation part; on a GPU alone."""
    print(f"evaluate {name}: loading PyTorch")
    from learn.training.device import use_device

    device = use_device(params.device, params.threads)
    memory = f"free its memory, set memory: streamed, or a smaller experiments.{name}.batch_size"
    with alone_on_gpu(f"evaluate {name}", device), memory_told(f"evaluate {name}", device, lambda: memory):
        found = measured(params, name)
    dataset, test = params.experiment(name).dataset, found.predictions["test"]
    write_atomically(predictions_file(name), _as_csv(test.targets, found.chosen_predictions, found.criterion.classes))
    write_atomically(scored_file(dataset, name), as_file(found.predictions))
    write_atomically(report_file(dataset, name), _as_json(found.report))
    write_atomically(metrics_file(dataset, name), _as_json(as_row(found)))
    for part, values in found.metrics.items():
        print(f"evaluate {name}: {part} " + ", ".join(f"{key} {value:.4f}" for key, value in values.items()))
    print(made := f"evaluate {name}: {found.diagnosis.text}")
    if params.tracking:
        from tasks.log_evaluation import log_evaluation

        try:
            log_evaluation(params, name, found)
        except StoreUnreachable as error:
            print(
                f"evaluate {name}: {error}. What was measured is kept; "
                f"register@{dataset} or `trackway relog` brings it to MLflow"
            )
    return made


def measured(params: Params, name: str) -> Evaluation:
    """Measures a trained experiment on its held-out splits; writes nothing.

    Raises:
        NotFiniteError: A loss, a logit or a metric is NaN or infinite.
    """
    from learn.evaluation.diagnosis import diagnose
    from learn.evaluation.intervals import intervals
    from learn.evaluation.yardsticks import measured_yardsticks

    assembled = assemble(params, name, HELD_OUT, "test")
    info, trainings = assembled.info, assembled.experiment.trainings
    split = params.dataset(assembled.experiment.dataset).split
    scored = {seed: _scored_on_all(assembled, seed) for seed in trainings}
    metrics = {seed: {part: found.metrics for part, found in one.items()} for seed, one in scored.items()}
    chosen = min(trainings, key=lambda seed: metrics[seed][info.held_out]["loss"])
    predicted = {
        part: Predictions(
            loaded.targets.cpu().numpy(),
            _by_seed([scored[seed][part].predictions for seed in trainings]),
            samples_md5(assembled.folders[part], part),
            len(info.classes),
            _by_seed([scored[seed][part].confidence for seed in trainings]) if info.classes else None,
        )
        for part, loaded in assembled.splits.items()
    }
    model = assembled.on_device(assembled.trained_model(chosen))
    dataset = assembled.experiment.dataset
    stratified = [part for part in predicted if split.is_stratified(part)]
    yardsticks = measured_yardsticks(evaluation_folder(dataset) / YARDSTICKS, predicted, info.classes, stratified)
    diagnosis = diagnose(
        read_history(history_file(name, chosen)),
        info.held_out,
        info.classes,
        scored[chosen][info.held_out].predictions,
        is_table=bool(yardsticks),
    )
    details: dict[str, Any] = {
        "experiment": name,
        "dataset": dataset,
        STATE_DICT_KEY: sha256_of(state_dict_files(models_folder(name))),
        TEST_DATA_KEY: predicted["test"].data,
        "diagnosis": vars(diagnosis),
        "intervals": {part: intervals(each, stratified=part in stratified) for part, each in predicted.items()},
    }
    if yardsticks:
        details["yardsticks"] = yardsticks
    if chosen is not None:
        details["chosen_seed"] = chosen
    if info.held_out != "test":
        details[VALIDATION_DATA_KEY] = predicted["validation"].data
    by_class, texts = _by_class(predicted["test"].targets, scored[chosen]["test"].predictions, info.classes)
    return Evaluation(
        _mean(list(metrics.values())),
        {seed: values for seed, values in metrics.items() if seed is not None},
        diagnosis,
        {"parameters": sum(p.numel() for p in model.parameters()), "epochs": len(read_history(history_file(name)))},
        details | by_class,
        texts,
        assembled.splits["test"],
        assembled.criterion,
        model,
        chosen,
        predicted,
        _latency(model, assembled.splits["test"]),
    )


def _latency(model: nn.Module, test: Split) -> Latency:
    """Measures the latency of a model with samples of the test split, which are repeated if there are too few."""
    import torch

    from learn.latency import BATCH, measure

    places = torch.arange(BATCH, device=test.targets.device) % len(test)
    return measure(model, test.batch(places)[0])


def _mean(each: list[Scores]) -> Scores:
    first = each[0]
    return {
        part: {key: fsum(one[part][key] for one in each) / len(each) for key in values}
        for part, values in first.items()
    }


def _by_class(
    targets: np.ndarray, predictions: np.ndarray, classes: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns what the report and MLflow's texts say of each class; nothing for regression."""
    from learn.evaluation.metrics import confusion, per_class, report

    if not classes:
        return {}, {}
    found = {
        "per_class": per_class(targets, predictions, classes),
        "confusion_matrix": confusion(targets, predictions, classes).tolist(),
    }
    return found, {"classification_report.txt": report(targets, predictions, classes)}


def _by_seed(each: list[np.ndarray]) -> np.ndarray:
    """Returns arrays of several seeds as one, whose first dimension is the seed; that of one seed as it is."""
    return np.stack(each) if len(each) > 1 else each[0]


@dataclass(frozen=True)
class Scored:
    """What a model makes of a split.

    Attributes:
        metrics: Name, such as `accuracy`, to value.
        predictions: (N,) int64 class indices, or (N, 1) float32 for regression.
        confidence: (N,) float32, the probability of the predicted class; empty for regression.
    """

    metrics: dict[str, float]
    predictions: np.ndarray
    confidence: np.ndarray


def _scored_on_all(assembled: Assembled, seed: int | None) -> dict[str, Scored]:
    """Returns what `scored_on` returns, for each split that is loaded."""
    model = assembled.on_device(assembled.trained_model(seed))
    return {
        part: scored_on(model, split, assembled.criterion, assembled.batch_size, assembled.info.classes)
        for part, split in assembled.splits.items()
    }


def scored_on(
    model: nn.Module, part: Split, criterion: Criterion, batch_size: int | None, classes: tuple[str, ...]
) -> Scored:
    """Returns every metric of the model on a split, with its predictions.

    Raises:
        NotFiniteError: A loss, a logit or a metric is NaN or infinite.
    """
    from learn.evaluation.metrics import scores
    from learn.training.evaluate import evaluate_split

    measured, logits = evaluate_split(model, part, criterion, batch_size)
    chosen = criterion.predict(logits)
    predictions, confidence = chosen.numpy(), np.empty(0, np.float32)
    if classes:
        of_chosen = criterion.probabilities(logits).gather(1, chosen[:, None])[:, 0]
        confidence = of_chosen.numpy().round(DIGITS)
    metrics: dict[str, float] = {key.removeprefix(f"{part.name}/"): value for key, value in measured.items()}
    metrics |= scores(part.targets.cpu().numpy(), predictions, classes)
    for key, value in metrics.items():
        if not math.isfinite(value):
            raise NotFiniteError(
                f"{key} is {value} on the {part.name} part's {len(part):,} samples; a metric must be a finite number: "
                "give that part more samples, or mend the metric in METRICS"
            )
    return Scored(metrics, predictions, confidence)


def as_row(found: Evaluation) -> dict[str, Any]:
    """Returns the content of metrics/D/E.json: test metrics, counts, and under `validation` the validation metrics.

    With several seeds these are means; `sd` has their standard deviations, and `seeds` each seed's own metrics.
    """
    row = _flat(found.metrics, found.counts)
    if found.by_seed:
        seeds = {str(seed): _flat(values) for seed, values in found.by_seed.items()}
        row |= {"sd": _flat(found.sd), "seeds": seeds}
    return row


def _flat(scores: Scores, counts: dict[str, int] | None = None) -> dict[str, Any]:
    others = {part: values for part, values in scores.items() if part != "test"}
    return scores["test"] | (counts or {}) | others


def _as_csv(targets: np.ndarray, predictions: np.ndarray, classes: tuple[str, ...]) -> bytes:
    """Returns a table with the columns actual and predicted: names of classes, or numbers rounded to two digits.

    The rounding makes bins for DVC's plot, which counts equal pairs.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["actual", "predicted"])
    for target, prediction in zip(targets.ravel().tolist(), predictions.ravel().tolist(), strict=True):
        if classes:
            writer.writerow([classes[target], classes[prediction]])
        else:
            writer.writerow([f"{target:.2f}", f"{prediction:.2f}"])
    return text.getvalue().encode()


def _as_json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


if __name__ == "__main__":
    run_stage(evaluate, "experiments")
