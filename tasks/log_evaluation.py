"""Adds what the evaluate stage found to the experiment's run in MLflow: metrics, figures, and the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from learn.data.source import Photos
from learn.data.transformed import COLUMNS, FittedColumns, read_raw
from learn.evaluation.predictions import as_file
from learn.training.history import read_history
from tasks.figures import augmented, figures_of
from tasks.params import Params
from tasks.tracking.models import add_to_run, log_seeds
from tasks.tracking.names import store_in
from tasks.tracking.page import evaluation_note
from tasks.tracking.tags import DATA_TAGS, DIAGNOSIS, NO_MODEL, PREDICTIONS
from tasks.workspace.files import sha256
from tasks.workspace.paths import evaluation_folder, history_file, state_dict_file, training_folder
from tasks.workspace.report import DATA_KEYS

if TYPE_CHECKING:
    from torch import nn

    from tasks.evaluate import Evaluation, Scores

EXAMPLES = 4  # number of example inputs stored with the model


def log_evaluation(params: Params, name: str, found: Evaluation) -> None:
    """Adds metrics, figures and the model to the experiment's run in MLflow."""
    import torch

    from learn.raw_inputs import RawInputs
    from learn.training.batch_check import why_not_exported

    experiment, test = params.experiment(name), found.test
    dataset = params.dataset(experiment.dataset)
    model = found.model.to(torch.device("cpu"), memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    figures = figures_of(name, found)
    if experiment.augmentation:
        figures["augmentation"] = augmented(params, name)
    places = torch.linspace(0, len(test) - 1, EXAMPLES).round().long().to(test.targets.device)
    ((example, _),) = test.batches([places])  # of several classes, also where the samples are in the order of these
    if reason := why_not_exported(model, test.prepare(example).cpu().contiguous()):
        print(
            f"evaluate {name}: the model cannot be kept in MLflow and become champion, for it decides by the values "
            f"that it computes ({reason}); torch.where or torch.cond instead of if would do"
        )
    whole, inputs, columns = _with_columns(experiment.dataset, model, example.cpu().numpy(), places.tolist())
    for_seeds = {
        seed: (sha256(state_dict_file(name, seed)), _not_in_curves(scores, history_file(name, seed)))
        for seed, scores in found.by_seed.items()
    }
    data = {DATA_TAGS[split]: found.report[key] for split, key in DATA_KEYS.items() if key in found.report}
    log_seeds(store_in(params), experiment.dataset, name, for_seeds, data)
    if found.by_seed:  # all means: if seeds stopped early, the last point of a mean curve is not theirs
        metrics = _full_names(found.metrics) | {f"{name}.sd": value for name, value in _full_names(found.sd).items()}
    else:
        metrics = _not_in_curves(found.metrics, history_file(name))
    add_to_run(
        store_in(params),
        experiment.dataset,
        metrics=metrics,
        latency=found.latency,
        note=evaluation_note(found.report, found.metrics),
        tags={DIAGNOSIS: found.diagnosis.summary} | ({NO_MODEL: reason} if reason else {}),
        report=found.report,
        texts=found.texts | {"diagnosis.txt": found.diagnosis.text},
        files={PREDICTIONS: as_file(found.predictions)},
        figures=figures,
        model=None if reason else RawInputs(whole, found.criterion.to("cpu"), test.scale).eval(),
        about={
            "classes": list(found.criterion.classes),
            "loss": experiment.loss.name,
            "loss_arguments": experiment.loss.arguments,
            "scale": test.scale,
        }
        | ({"fit": list(fit)} if isinstance(dataset.source, Photos) and (fit := dataset.transform.fit) else {})
        | columns,
        example=inputs,
    )


def _with_columns(
    dataset: str, model: nn.Module, features: np.ndarray, places: list[int]
) -> tuple[nn.Module, np.ndarray, dict[str, Any]]:
    """Returns a model that takes a table's own columns, some of its test rows, and what must be known of the columns.

    If the dataset is no table, the model and its inputs stay as they are.

    Args:
        dataset: The dataset's name.
        model: Maps features (B, features) to what the loss takes.
        features: (B, features), those of the test rows.
        places: B places of rows in the test part.
    """
    if not (training_folder(dataset) / COLUMNS).exists():
        return model, features, {}
    from torch import nn

    from learn.data.raw_columns import RawColumns

    fitted = FittedColumns.read(training_folder(dataset))
    rows = read_raw(evaluation_folder(dataset), "test")[places]
    known = [
        {"name": each.name, "categories": each.categories and list(each.categories), "may_lack": each.may_lack}
        for each in fitted.columns
    ]
    return nn.Sequential(RawColumns(fitted), model), rows, {"columns": known}


def _full_names(scores: Scores) -> dict[str, float]:
    """Returns metrics by their full names, such as `test/accuracy`."""
    return {f"{part}/{key}": value for part, values in scores.items() for key, value in values.items()}


def _not_in_curves(scores: Scores, history: Path) -> dict[str, float]:
    """Returns metrics by their full names, without those that training logged: another point would bend the curves."""
    curves = read_history(history)[-1]
    return {
        name: value for name, value in _full_names(scores).items() if name.startswith("test/") or name not in curves
    }
