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
from typing import TYPE_CHECKING, Any

import numpy as np

from learn.errors import NotFiniteError, StoreUnreachable
from learn.evaluation.predictions import Predictions, as_file
from tasks.assemble import HELD_OUT, assemble
from tasks.gpu import alone_on_gpu, memory_told
from tasks.params import Params
from tasks.stage import run_stage
from tasks.tracking.models import log_evaluation
from tasks.tracking.tags import NO_MODEL, PREDICTIONS, STATE_DICT, TEST_DATA, VALIDATION_DATA
from tasks.workspace.files import samples_md5, sha256, write_atomically
from tasks.workspace.paths import (
    history_file,
    metrics_file,
    predictions_file,
    report_file,
    scored_file,
    state_dict_file,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from learn.evaluation.diagnosis import Diagnosis
    from learn.training.criterion import Criterion
    from learn.training.splits import Split

EXAMPLES = 4  # number of example inputs stored with the model
GRID = 24  # number of images in the prediction grid
AUGMENTED = 6  # number of images in the augmentation grid, and of augmentations of each


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a trained experiment on its held-out splits."""

    metrics: dict[str, dict[str, float]]  # split → metric → value; the split that decides is the first
    diagnosis: Diagnosis
    counts: dict[str, int]  # number of parameters and of epochs
    report: dict[str, Any]  # the content of metrics/D/E.report.json
    texts: dict[str, str]  # file → content, for MLflow
    test: Split
    criterion: Criterion
    model: nn.Module
    predictions: dict[str, Predictions]  # on each split


def evaluate(params: Params, name: str) -> str:
    """Measures a trained experiment on the test part and, if there is one, the validation part; on a GPU alone."""
    print(f"evaluate {name}: loading PyTorch")
    from learn.training.device import use_device

    device = use_device(params.device, params.threads)
    memory = f"free its memory, set memory: streamed, or a smaller experiments.{name}.batch_size"
    with alone_on_gpu(f"evaluate {name}", device), memory_told(f"evaluate {name}", device, lambda: memory):
        found = measured(params, name)
    dataset, test = params.experiment(name).dataset, found.predictions["test"]
    write_atomically(predictions_file(name), _as_csv(test.targets, test.predictions, found.criterion.classes))
    write_atomically(scored_file(dataset, name), as_file(found.predictions))
    write_atomically(report_file(dataset, name), _as_json(found.report))
    write_atomically(metrics_file(dataset, name), _as_json(as_row(found)))
    for part, values in found.metrics.items():
        print(f"evaluate {name}: {part} " + ", ".join(f"{key} {value:.4f}" for key, value in values.items()))
    print(made := f"evaluate {name}: {found.diagnosis.text}")
    if params.tracking:
        try:
            log(params, name, found)
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
    from learn.evaluation.metrics import confusion, per_class, report

    assembled = assemble(params, name, HELD_OUT, "test")
    info, folders, criterion = assembled.info, assembled.folders, assembled.criterion
    test = assembled.splits["test"]
    model = assembled.on_device(assembled.trained_model())
    scored = {
        part: _scored(model, split, criterion, assembled.batch_size, info.classes)
        for part, split in assembled.splits.items()
    }
    metrics = {part: values for part, (values, _) in scored.items()}
    predicted = {
        part: Predictions(
            split.targets.cpu().numpy(), scored[part][1], samples_md5(folders[part], part), len(info.classes)
        )
        for part, split in assembled.splits.items()
    }
    targets, predictions = predicted["test"].targets, predicted["test"].predictions
    history = _history(name)
    counts = {"parameters": sum(p.numel() for p in model.parameters()), "epochs": len(history)}
    diagnosis = diagnose(history, info.held_out, info.classes, scored[info.held_out][1])
    details: dict[str, Any] = {
        "experiment": name,
        "dataset": assembled.experiment.dataset,
        STATE_DICT: sha256(state_dict_file(name)),
        TEST_DATA: predicted["test"].data,
        "diagnosis": vars(diagnosis),
        "intervals": {part: intervals(each) for part, each in predicted.items()},
    }
    if info.held_out != "test":
        details[VALIDATION_DATA] = predicted["validation"].data
    texts = {}
    if info.classes:
        details["per_class"] = per_class(targets, predictions, info.classes)
        details["confusion_matrix"] = confusion(targets, predictions, info.classes).tolist()
        texts["classification_report.txt"] = report(targets, predictions, info.classes)
    return Evaluation(metrics, diagnosis, counts, details, texts, test, criterion, model, predicted)


def _scored(
    model: nn.Module, part: Split, criterion: Criterion, batch_size: int | None, classes: tuple[str, ...]
) -> tuple[dict[str, float], np.ndarray]:
    """Returns every metric of the model on a split, and its predictions.

    Raises:
        NotFiniteError: A loss, a logit or a metric is NaN or infinite.
    """
    from learn.evaluation.metrics import scores
    from learn.training.evaluate import evaluate_split

    measured, logits = evaluate_split(model, part, criterion, batch_size)
    predictions = criterion.predict(logits).numpy()
    metrics: dict[str, float] = {key.removeprefix(f"{part.name}/"): value for key, value in measured.items()}
    metrics |= scores(part.targets.cpu().numpy(), predictions, classes)
    for key, value in metrics.items():
        if not math.isfinite(value):
            raise NotFiniteError(
                f"{key} is {value} on the {part.name} part's {len(part):,} samples; a metric must be a finite number: "
                "give that part more samples, or mend the metric in METRICS"
            )
    return metrics, predictions


def as_row(found: Evaluation) -> dict[str, Any]:
    """Returns the content of metrics/D/E.json: test metrics, counts, and under `validation` the validation metrics."""
    others = {part: values for part, values in found.metrics.items() if part != "test"}
    return found.metrics["test"] | found.counts | others


def log(params: Params, name: str, found: Evaluation) -> None:
    """Adds metrics, figures and the model to the experiment's run in MLflow."""
    import torch

    from learn.training.batch_check import why_not_exported

    experiment, test = params.experiment(name), found.test
    model = found.model.to(torch.device("cpu"), memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    figures = _figures(name, found)
    if experiment.augmentation:
        figures["augmentation"] = _augmented(params, name)
    example = test.batch(slice(0, EXAMPLES))[0].cpu().contiguous()
    if reason := why_not_exported(model, example):
        print(
            f"evaluate {name}: the model cannot be kept in MLflow and become champion, for it decides by the values "
            f"that it computes ({reason}); torch.where or torch.cond instead of if would do"
        )
    curves = _history(name)[-1]  # training has logged these; logging them again would add a point to their curves
    log_evaluation(
        params.tracking,
        experiment.dataset,
        metrics={
            f"{part}/{key}": value
            for part, values in found.metrics.items()
            for key, value in values.items()
            if part == "test" or f"{part}/{key}" not in curves
        },
        tags={"diagnosis": found.diagnosis.summary} | ({NO_MODEL: reason} if reason else {}),
        report=found.report,
        texts=found.texts | {"diagnosis.txt": found.diagnosis.text},
        files={PREDICTIONS: as_file(found.predictions)},
        figures=figures,
        model=None if reason else model,
        about={"classes": list(found.criterion.classes), "loss": experiment.loss.name},
        example=example.numpy(),
    )


def _history(name: str) -> list[dict[str, float]]:
    with history_file(name).open(newline="", encoding="utf-8") as stream:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def _figures(name: str, found: Evaluation) -> dict[str, Figure]:
    """Returns the figures of a run by name; the model must be on the CPU."""
    import torch

    from learn import plots
    from learn.evaluation.metrics import confusion

    test, model, predictions = found.test, found.model, found.predictions["test"].predictions
    figures = {"loss_curves": plots.loss_curves(_history(name))}
    targets, classes = test.targets.cpu().numpy(), found.criterion.classes
    if not classes:
        return figures | {"predictions": plots.regression_fit(targets, predictions)}
    figures["confusion_matrix"] = plots.confusion_matrix(confusion(targets, predictions, classes), classes)
    if test.inputs.shape[1:] == (2,):

        def predict(points: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return found.criterion.predict(model(torch.from_numpy(points))).numpy()

        points = test.batch(slice(None))[0].cpu().numpy()
        figures["decision_boundary"] = plots.decision_boundary(predict, points, targets, classes)
    if test.inputs.ndim == 4:
        images = test.batch(slice(0, GRID))[0].cpu().contiguous().numpy()
        figures["prediction_grid"] = plots.prediction_grid(images, targets[:GRID], predictions[:GRID], classes)
    return figures


def _augmented(params: Params, name: str) -> Figure:
    """Plots what augmentation does: each row shows an image as it is, then as training may see it."""
    import torch

    from learn import plots

    assembled = assemble(params.model_copy(update={"device": "cpu"}), name, "train")
    train, augment = assembled.splits["train"], assembled.augmentation()
    assert augment
    chosen = torch.linspace(0, len(train) - 1, AUGMENTED).long()  # evenly spread, since images are sorted by class
    ((inputs, targets),) = train.batches([chosen])
    columns = [train.prepare(inputs), *(augment(inputs, targets, seed)[0] for seed in range(AUGMENTED))]
    return plots.image_rows(torch.stack(columns, dim=1).numpy())


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
