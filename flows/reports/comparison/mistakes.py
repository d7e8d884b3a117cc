"""Finds the test samples on which a model is most sure of a wrong answer.

No output of DVC has probabilities, so the model computes them anew, on the CPU, for samples that it got wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flows.reports.comparison.answers import one_seed, png, test_inputs
from flows.reports.comparison.records import Mistake
from learn.errors import TrackwayError
from learn.evaluation.predictions import read
from tasks.params import Params
from tasks.workspace.files import sha256_of
from tasks.workspace.paths import models_folder, scored_file, state_dict_files
from tasks.workspace.report import STATE_DICT_KEY

MOST_MODELS = 3  # the best ones
MOST_SHOWN = 8  # mistakes of each
MOST_SCORED = 200  # mistakes whose probability is computed; if there are more, they are evenly spread among them
LARGEST = 10_000_000  # parameters of a model; a larger one would take a minute
MOST_VALUES = 8  # that are shown of an input that is no picture
BATCH = 32

Row = dict[str, Any]


def confident_mistakes(params: Params, rows: list[Row], reports: dict[str, Row]) -> dict[str, tuple[Mistake, ...]]:
    """Returns experiment → its most confident mistakes, for those of the best experiments whose models can be asked.

    Args:
        params: The parameters.
        rows: The dataset's rows of the table of results, best first.
        reports: Experiment → the content of its report file.
    """
    found = {row["experiment"]: _mistakes(params, row, reports[row["experiment"]]) for row in rows[:MOST_MODELS]}
    return {name: mistakes for name, mistakes in found.items() if mistakes}


def _mistakes(params: Params, row: Row, report: Row) -> tuple[Mistake, ...]:
    """Returns a model's most confident mistakes; none if its files or settings are not those that were evaluated."""
    name, dataset = row["experiment"], row["dataset"]
    test = read(scored_file(dataset, name), "test")
    if test is None or not test.classes or row["parameters"] > LARGEST:
        return ()
    files = state_dict_files(models_folder(name))
    if not all(file.is_file() for file in files) or sha256_of(files) != report[STATE_DICT_KEY]:
        return ()
    if (found := test_inputs(dataset, test)) is None:
        return ()
    inputs, scale = found
    answers = one_seed(test.predictions, row, report)
    if not len(wrong := np.flatnonzero(answers != test.targets)):
        return ()
    wrong = wrong[np.unique(np.linspace(0, len(wrong) - 1, min(len(wrong), MOST_SCORED)).round().astype(int))]
    try:
        sure = _probabilities(params, name, report.get("chosen_seed"), wrong, answers[wrong])
    except (TrackwayError, ValueError, TypeError):  # params.yaml describes another model by now
        return ()
    most = np.argsort(-sure, kind="stable")[:MOST_SHOWN]
    is_picture = inputs.ndim == 4 and inputs.shape[1] in (1, 3)
    return tuple(
        Mistake(
            int(number),
            png(inputs[number] / scale) if is_picture else b"",
            "" if is_picture else _values(inputs[number] / scale),
            int(test.targets[number]),
            int(answers[number]),
            float(probability),
        )
        for number, probability in zip(wrong[most], sure[most], strict=True)
    )


def _values(sample: np.ndarray) -> str:
    """Returns the first numbers of an input as text."""
    numbers = [f"{value:.3g}" for value in sample.ravel()[:MOST_VALUES].tolist()]
    return ", ".join([*numbers, *(["…"] if sample.size > MOST_VALUES else [])]).replace("-", "−")


def _probabilities(params: Params, name: str, seed: int | None, places: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Returns the probability (n,) that the model gives to an answer, for some test samples.

    Args:
        params: The parameters.
        name: The experiment's name.
        seed: The seed of the model that was kept, if there are several.
        places: (n,) int64, the samples' places in the test split.
        answers: (n,) int64 classes.
    """
    import torch

    from tasks.assemble import assemble

    assembled = assemble(params.model_copy(update={"device": "cpu"}), name, "test")
    model, split = assembled.trained_model(seed), assembled.splits["test"]
    with torch.inference_mode():
        batches = split.batches(torch.from_numpy(places).split(BATCH))
        every = np.concatenate(
            [assembled.criterion.probabilities(model(split.prepare(inputs))).numpy() for inputs, _ in batches]
        )
    return every[np.arange(len(answers)), answers].round(4)  # the digits behind them differ between processors
