"""`models/E/` on the test part → `metrics/D/E.json` and its report, predictions, and the rest of the run in MLflow.

python -m tasks.evaluate digits-mlp
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from learn.params import Params
from tasks.stage import (
    history_file,
    is_streamed,
    metrics_file,
    predictions_file,
    report_file,
    run_stage,
    state_dict_file,
    transformed_folder,
    write_atomically,
)
from tasks.tracking import STATE_DICT, TEST_DATA, log_evaluation, sha256

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from learn.diagnosis import Diagnosis
    from learn.objective import Objective
    from learn.parts import Part

EXAMPLES = 4  # inputs stored with the model
GRID = 24  # pictures in the prediction grid
AUGMENTED = 6  # photos in the augmentation grid, and ways to see each


@dataclass(frozen=True)
class Evaluation:
    """What the test part says about a trained experiment."""

    metrics: dict[str, float]
    diagnosis: Diagnosis
    counts: dict[str, int]  # parameters and epochs
    report: dict[str, Any]
    texts: dict[str, str]  # file → content, for MLflow
    test: Part
    objective: Objective
    model: nn.Module
    predictions: np.ndarray


def evaluate(params: Params, name: str) -> None:
    """Measures a trained experiment on the test part."""
    found = measured(params, name)
    dataset, objective = params.experiment(name).dataset, found.objective
    targets = found.test.targets.cpu().numpy()
    write_atomically(predictions_file(name), _as_csv(targets, found.predictions, objective.classes))
    write_atomically(report_file(dataset, name), _as_json(found.report))
    write_atomically(metrics_file(dataset, name), _as_json(found.metrics | found.counts))
    print(f"evaluate {name}: " + ", ".join(f"{key} {value:.4f}" for key, value in found.metrics.items()))
    print(f"evaluate {name}: {found.diagnosis.text}")
    if params.tracking:
        log(params, name, found)


def measured(params: Params, name: str) -> Evaluation:
    """Measures a trained experiment on the test part, and writes nothing."""
    import torch

    from learn.build import build_loss, build_model
    from learn.diagnosis import diagnose
    from learn.loop import measure, use_device
    from learn.metrics import confusion, per_class, report, scores
    from learn.parts import Info, load_part, part_bytes

    experiment = params.experiment(name)
    device = use_device(params.device, params.threads)
    folder = transformed_folder(experiment.dataset)
    info = Info.read(folder)
    streamed = is_streamed(params.memory, part_bytes(folder, "test"), device)
    test = load_part(folder, "test", memory_format=experiment.memory_format, streamed=streamed).to(device)
    objective = build_loss(experiment.loss.name, experiment.loss.arguments, info.classes)
    model = build_model(experiment.model.name, experiment.model.arguments, info.shape, objective.output_size)
    model.load_state_dict(torch.load(state_dict_file(name), weights_only=True, map_location="cpu"))
    model = model.to(device, memory_format=test.memory_format)  # type: ignore[call-overload]

    measured, logits = measure(
        model, test, objective, None if experiment.batch_size == "full" else experiment.batch_size
    )
    targets, predictions = test.targets.cpu().numpy(), objective.predict(logits).numpy()
    metrics: dict[str, float] = {key.removeprefix("test/"): value for key, value in measured.items()}
    metrics |= scores(targets, predictions, info.classes)
    history = _history(name)
    counts = {"parameters": sum(p.numel() for p in model.parameters()), "epochs": len(history)}
    diagnosis = diagnose(history, info.held_out, info.classes, predictions)
    details: dict[str, Any] = {
        "experiment": name,
        "dataset": experiment.dataset,
        STATE_DICT: sha256(state_dict_file(name)),
        TEST_DATA: _md5(folder / "test-inputs.npy", folder / "test-targets.npy"),
        "diagnosis": vars(diagnosis),
    }
    texts = {}
    if info.classes:
        details["per_class"] = per_class(targets, predictions, info.classes)
        details["confusion_matrix"] = confusion(targets, predictions, info.classes).tolist()
        texts["classification_report.txt"] = report(targets, predictions, info.classes)
    return Evaluation(metrics, diagnosis, counts, details, texts, test, objective, model, predictions)


def log(params: Params, name: str, found: Evaluation) -> None:
    """The rest of the run in MLflow."""
    import torch

    from learn.parts import Info

    experiment, test = params.experiment(name), found.test
    model = found.model.to(torch.device("cpu"), memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    figures = _figures(name, found)
    if experiment.augmentation:
        figures["augmentation"] = _augmented(params, name)
    info = Info.read(transformed_folder(experiment.dataset))
    log_evaluation(
        params.tracking,
        experiment.dataset,
        state_dict_file(name),
        metrics=found.metrics,
        tags={"diagnosis": found.diagnosis.summary},
        report=found.report,
        texts=found.texts | {"diagnosis.txt": found.diagnosis.text},
        figures=figures,
        model=model,
        about={"classes": list(info.classes), "loss": experiment.loss.name},
        example=test.batch(slice(0, EXAMPLES))[0].cpu().contiguous().numpy(),
    )


def _history(name: str) -> list[dict[str, float]]:
    with history_file(name).open(newline="", encoding="utf-8") as stream:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def _figures(name: str, found: Evaluation) -> dict[str, Figure]:
    """The pictures of a run; the model is on the CPU."""
    import torch

    from learn import plots
    from learn.metrics import confusion

    test, model, predictions = found.test, found.model, found.predictions
    figures = {"loss_curves": plots.loss_curves(_history(name))}
    targets, classes = test.targets.cpu().numpy(), found.objective.classes
    if not classes:
        return figures | {"predictions": plots.regression_fit(targets, predictions)}
    figures["confusion_matrix"] = plots.confusion_matrix(confusion(targets, predictions, classes), classes)
    if test.inputs.shape[1:] == (2,):

        def predict(points: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return found.objective.predict(model(torch.from_numpy(points))).numpy()

        points = test.batch(slice(None))[0].cpu().numpy()
        figures["decision_boundary"] = plots.decision_boundary(predict, points, targets, classes)
    if test.inputs.ndim == 4:
        images = test.batch(slice(0, GRID))[0].cpu().contiguous().numpy()
        figures["prediction_grid"] = plots.prediction_grid(images, targets[:GRID], predictions[:GRID], classes)
    return figures


def _augmented(params: Params, name: str) -> Figure:
    """What augmentation does: a row a photo, as it is and then as training may see it."""
    import torch

    from learn import plots
    from learn.augment import Augmentation
    from learn.parts import Info, load_part

    experiment = params.experiment(name)
    folder = transformed_folder(experiment.dataset)
    info, train = Info.read(folder), load_part(folder, "train")
    chosen = torch.linspace(0, len(train) - 1, AUGMENTED).long()  # photos stand class by class
    ((inputs, targets),) = train.batches([chosen])
    steps = [(step.name, step.arguments) for step in experiment.augmentation or []]
    augment = Augmentation(steps, len(info.classes), info.scale)
    columns = [train.prepare(inputs), *(augment(inputs, targets, seed)[0] for seed in range(AUGMENTED))]
    return plots.image_rows(torch.stack(columns, dim=1).numpy())


def _as_csv(targets: np.ndarray, predictions: np.ndarray, classes: tuple[str, ...]) -> bytes:
    """Two columns, actual and predicted: names of classes, or numbers to two digits (a plot of counts needs bins)."""
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


def _md5(*files: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    run_stage(evaluate, "experiments")
