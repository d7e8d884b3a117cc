"""Turns `data/raw/D/` and `data/split/D/` into `data/transformed/D/`: each split's inputs and targets, for batches.

training/     the train split, and the split that is measured after each epoch: validation, or else test
evaluation/   the test split, if there is a validation split
report.json   what the checks of photos or of a table found

    python -m tasks.transform digits

All deterministic work on inputs is done here, once: images as uint8, everything else as float32, in files that training
can memory-map.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from learn.data.source import Photos, Source
from learn.data.transformed import (
    COLUMNS,
    EVALUATION,
    INFO,
    RAW,
    TRAINING,
    YARDSTICKS,
    Info,
    class_counts,
    fit_columns,
    folder_of,
    predict_yardsticks,
    resize,
    table_problems,
)
from learn.errors import only_data
from tasks.inputs import watched
from tasks.params import DatasetConfig, Params
from tasks.photos import print_problems, transform_photos
from tasks.stage import run_stage
from tasks.workspace.files import atomic_folder, save_array
from tasks.workspace.paths import REPORT, raw_folder, split_folder, transformed_folder


def transform(params: Params, name: str) -> str:
    """Writes PART-inputs.npy and PART-targets.npy into their folders, info.json into each, and the report."""
    dataset = params.dataset(name)
    folder = transformed_folder(name)
    parts = {}
    for path in sorted(split_folder(name).glob("*.npy")):
        with only_data(path, f"split@{name}"):
            parts[path.stem] = np.load(path)
    with atomic_folder(folder) as partial:
        folders = {part: partial / folder_of(part, parts) for part in parts}
        for kind in (TRAINING, EVALUATION):
            (partial / kind).mkdir()
        if isinstance(dataset.source, Photos):
            report = transform_photos(name, dataset, parts, folders)
        elif dataset.source.column_kinds:
            report = _transform_table(name, dataset, parts, folders, partial)
        else:
            report = {}
            _transform_arrays(name, dataset, parts, folders)
        (partial / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        shape, samples = _write_info(dataset.source, partial, folders)
    print(made := f"transform {name}: inputs {shape}, {sum(samples.values()):,} samples → {folder}")
    return made


def _write_info(source: Source, partial: Path, folders: dict[str, Path]) -> tuple[tuple[int, ...], dict[str, int]]:
    """Writes info.json into both folders; returns the shape of one input, and split → number of samples."""
    inputs = {part: np.load(folder / f"{part}-inputs.npy", mmap_mode="r").shape for part, folder in folders.items()}
    shape = inputs["train"][1:]
    for kind in (TRAINING, EVALUATION):
        samples = {part: inputs[part][0] for part, folder in folders.items() if folder.name == kind}
        text = Info(shape, source.classes, source.scale, samples).to_json()
        (partial / kind / INFO).write_text(text, encoding="utf-8")
    return shape, {part: size for part, (size, *_) in inputs.items()}


def _transform_arrays(
    name: str, dataset: DatasetConfig, parts: dict[str, np.ndarray], folders: dict[str, Path]
) -> None:
    """Writes each split's inputs and targets into its folder."""
    inputs, targets = _read(name, dataset.source)
    for part, index in parts.items():
        chosen = inputs[index]
        if dataset.transform.resize:
            chosen = resize(chosen, dataset.transform.resize)
        save_array(folders[part] / f"{part}-inputs.npy", chosen)
        save_array(folders[part] / f"{part}-targets.npy", targets[index])


def _transform_table(
    name: str, dataset: DatasetConfig, parts: dict[str, np.ndarray], folders: dict[str, Path], partial: Path
) -> dict[str, Any]:
    """Writes each split of a table, what was learned from the train split, and the yardsticks; returns the report."""
    source, settings = dataset.source, dataset.transform
    raw, labels = _read(name, source)
    inputs, targets = ({part: array[index] for part, index in parts.items()} for array in (raw, labels))
    features, fitted = fit_columns(
        name, source.column_kinds, inputs, standardize=settings.standardize, impute=settings.impute
    )
    for part, folder in folders.items():
        save_array(folder / f"{part}-inputs.npy", features[part])
        save_array(folder / f"{part}-targets.npy", targets[part])
    (partial / TRAINING / COLUMNS).write_text(fitted.to_json(), encoding="utf-8")
    (held_out := partial / EVALUATION / RAW).mkdir()
    for part in inputs.keys() - {"train"}:
        save_array(held_out / f"{part}.npy", inputs[part])
    for yardstick, predictions in predict_yardsticks(source.column_kinds, source.classes, inputs, targets).items():
        (folder := partial / EVALUATION / YARDSTICKS / yardstick).mkdir(parents=True)
        for part, values in predictions.items():
            save_array(folder / f"{part}.npy", values)
    found = table_problems(source.column_kinds, source.classes, inputs, targets)
    print_problems(name, found)
    rows = class_counts(source.classes, targets) if source.classes else {part: len(i) for part, i in parts.items()}
    return {"rows": rows, "problems": [vars(problem) for problem in found]}


def _read(name: str, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Reads and checks a dataset's raw inputs and targets."""
    with watched("transform", name, raw_folder(name)):
        inputs, targets = source.read(raw_folder(name))
        source.check(name, inputs, targets)
    return inputs, targets


if __name__ == "__main__":
    run_stage(transform, "datasets")
