"""Draws the samples of the train, validation and test split (`data/raw/D/` → `data/split/D/`).

    python -m tasks.split digits

Each sample is in exactly one split. scikit-learn draws them from a seed, stratified if params.yaml says so; an official
test set stays as it is.
"""

from __future__ import annotations

import numpy as np

from learn.data.indices import split_indices
from learn.errors import DataError
from tasks.inputs import watched
from tasks.params import Params
from tasks.stage import run_stage
from tasks.workspace.files import atomic_folder, save_array
from tasks.workspace.paths import raw_folder, split_folder


def split(params: Params, name: str) -> str:
    """Writes train.npy, test.npy and, where asked for, validation.npy: indices into the raw samples."""
    dataset = params.dataset(name)
    with watched("split", name, raw_folder(name)):
        targets = dataset.source.targets(raw_folder(name))
        if len(targets) != (said := sum(dataset.source.sizes)):
            raise DataError(f"datasets.{name}.source gives {len(targets):,} targets; its sizes say {said:,} samples")
    try:
        parts = split_indices(targets, *dataset.source.sizes, **dataset.split.model_dump())
    except ValueError as error:  # scikit-learn raises it if a class has too few samples
        raise DataError(f"datasets.{name}.split cannot be done: {error}") from error
    if (missing := _missing(targets, parts, dataset.source.classes)) and not dataset.split.shuffle:
        raise DataError(
            f"datasets.{name}.split: the validation part, cut from the end of the others, has no {', '.join(missing)}; "
            "set shuffle: true and stratify: true"
        )
    folder = split_folder(name)
    with atomic_folder(folder) as partial:
        for part, index in parts.items():
            save_array(partial / f"{part}.npy", index)
    sizes = ", ".join(f"{part} {len(index):,}" for part, index in parts.items())
    print(made := f"split {name}: {sizes} → {folder}")
    return made


def _missing(targets: np.ndarray, parts: dict[str, np.ndarray], classes: tuple[str, ...]) -> list[str]:
    """Returns the classes that have samples in the train split and none in the validation split."""
    if not classes or "validation" not in parts:
        return []
    train, validation = (set(targets[parts[part]].tolist()) for part in ("train", "validation"))
    return [classes[target] for target in sorted(train - validation)]


if __name__ == "__main__":
    run_stage(split, "datasets")
