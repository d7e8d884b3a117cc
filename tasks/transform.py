"""`data/raw/D/` and `data/split/D/` → `data/transformed/D/`: each part's inputs and targets, ready for batches.

    python -m tasks.transform digits

The deterministic work is done here, once: images as uint8, everything else as float32, in files to be memory-mapped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from learn.datasets import Photos
from learn.errors import only_data
from learn.params import Dataset, Params
from learn.parts import INFO, Info
from learn.transforms import resize
from tasks.inputs import watched
from tasks.photos import transform_photos
from tasks.stage import atomic_folder, raw_folder, run_stage, save_array, split_folder, transformed_folder


def transform(params: Params, name: str) -> None:
    """Writes PART-inputs.npy, PART-targets.npy, info.json and, for photos, report.json."""
    dataset = params.dataset(name)
    folder = transformed_folder(name)
    parts = {}
    for path in sorted(split_folder(name).glob("*.npy")):
        with only_data(path, f"split@{name}"):
            parts[path.stem] = np.load(path)
    with atomic_folder(folder) as partial:
        if isinstance(dataset.source, Photos):
            samples = transform_photos(name, dataset, parts, partial)
        else:
            samples = _transform_arrays(name, dataset, parts, partial)
        info = Info(dataset.shape, dataset.source.classes, dataset.source.scale, samples)
        (partial / INFO).write_text(info.to_json(), encoding="utf-8")
    print(f"transform {name}: inputs {info.shape}, {sum(samples.values()):,} samples → {folder}")


def _transform_arrays(name: str, dataset: Dataset, parts: dict[str, np.ndarray], into: Path) -> dict[str, int]:
    """Writes each part's inputs and targets; returns the number of samples in each."""
    with watched("transform", name, raw_folder(name)):
        inputs, targets = dataset.source.read(raw_folder(name))
        dataset.source.check(name, inputs, targets)
    for part, index in parts.items():
        chosen = inputs[index]
        if dataset.transform.resize:
            chosen = resize(chosen, dataset.transform.resize)
        save_array(into / f"{part}-inputs.npy", chosen)
        save_array(into / f"{part}-targets.npy", targets[index])
    return {part: len(index) for part, index in parts.items()}


if __name__ == "__main__":
    run_stage(transform, "datasets")
