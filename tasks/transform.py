"""`data/raw/D/` and `data/split/D/` → `data/transformed/D/`: each part's inputs and targets, ready for batches.

    python -m tasks.transform digits

The deterministic work is done here, once: images as uint8, everything else as float32, in files to be memory-mapped.
"""

from __future__ import annotations

import numpy as np

from learn.params import Params
from learn.parts import INFO, Info
from learn.transforms import resize
from tasks.stage import atomic_folder, raw_folder, run_stage, split_folder, transformed_folder


def transform(params: Params, name: str) -> None:
    """Writes PART-inputs.npy, PART-targets.npy and info.json."""
    dataset = params.dataset(name)
    inputs, targets = dataset.source.read(raw_folder(name))
    folder = transformed_folder(name)
    samples = {}
    with atomic_folder(folder) as partial:
        for path in sorted(split_folder(name).glob("*.npy")):
            index = np.load(path)
            part = inputs[index]
            if dataset.transform.resize:
                part = resize(part, dataset.transform.resize)
            np.save(partial / f"{path.stem}-inputs.npy", part)
            np.save(partial / f"{path.stem}-targets.npy", targets[index])
            samples[path.stem] = len(index)
        info = Info(dataset.shape, dataset.source.classes, dataset.source.scale, samples)
        (partial / INFO).write_text(info.to_json(), encoding="utf-8")
    print(f"transform {name}: inputs {info.shape} {inputs.dtype}, {sum(samples.values()):,} samples → {folder}")


if __name__ == "__main__":
    run_stage(transform, "datasets")
