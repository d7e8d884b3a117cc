"""Copies a user's photos to `data/raw/NAME/`, and adds them to params.yaml (`trackway add-images NAME PATH`)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from string import Template
from typing import Any

from flows.edits.catalog import merge, open_params, write_params
from learn.data.datasets.images import Images
from learn.data.photos.archives import PhotoCollection, gather, tree_digest
from learn.data.photos.decode import Mode, unwritable
from learn.errors import DataError, ParamsError
from tasks.params import load_params
from tasks.params.dataset import DatasetConfig
from tasks.workspace.files import atomic_folder
from tasks.workspace.paths import raw_folder

# Values from outside are written as JSON, which YAML can read, so that no text in them can change the structure.
SECTIONS = Template("""\
datasets:
  $name:
    source:
      name: images
      path: $path
      sha256: $sha256   # of all photos: their version
      class_names: $classes
      train: $train
      test: $test
    split: {test: $part, shuffle: $shuffle, stratify: $shuffle, seed: 42}
    transform: {resize: $size, mode: $mode, broken: stop}
    champion: {metric: accuracy}

experiments:
  $name-cnn:
    dataset: $name
    model: {name: cnn, hidden_units: [8, 16, 32], dropout: 0.2}
    loss: {name: CrossEntropyLoss}
    optimizer: {name: AdamW, lr: 0.003, weight_decay: 0.01}
    scheduler: {name: CosineAnnealingLR, T_max: 30}
    epochs: 30
    batch_size: 32
    seed: 42
    memory_format: channels_last
    augmentation:
      - {name: RandomHorizontalFlip}
      - {name: TrivialAugmentWide}
""")


SIZE = 64  # default width and height of photos, in pixels


def add_images(name: str, path: Path, params_file: Path, *, size: int | None, mode: Mode | None) -> str:
    """Copies photos, and adds a dataset with a first experiment, or updates an existing dataset to the new photos.

    Args:
        name: The dataset's name.
        path: A folder, a zip or tar archive, or a CSV table.
        params_file: The file params.yaml.
        size: Width and height in pixels that photos get; None for SIZE, or for what the dataset has.
        mode: `RGB` or `L`; None for RGB, or for what the dataset has.

    Returns:
        What was done, in one or more lines.

    Raises:
        DataError: The photos cannot be copied; nothing was changed.
        ParamsError: The name or a setting does not fit params.yaml; nothing was changed.
    """
    known = _known(name, path, params_file, {"resize": size, "mode": mode})
    source = known.source if known else None
    with atomic_folder(raw_folder(name)) as partial:
        found = gather(path, partial)
        digest = tree_digest(partial)
        values = {
            "path": str(path),
            "sha256": digest,
            "class_names": list(found.classes),
            "train": found.train,
            "test": found.test,
        }
        if isinstance(source, Images):
            if bool(found.test) != bool(source.test):
                raise DataError(
                    f"{path} has {'a' if found.test else 'no'} test part, unlike the photos of {name} before; "
                    "choose another name, or give it the same layout"
                )
            if (digest, str(path)) == (source.sha256, source.path):
                return f"dataset {name} has these photos already; nothing was changed"
            _renew(name, values, params_file)
        else:
            _add(name, values, found, params_file, size=size or SIZE, mode=mode or "RGB")
    left_out = "1 file" if found.ignored == 1 else f"{found.ignored:,} files"
    ignored = f"; left out: {left_out} without a photo's suffix" if found.ignored else ""
    test = f" and {found.test:,} for testing" if found.test else ""
    done = "has a new version" if known else f"and its first experiment {name}-cnn are in {params_file}"
    return (
        f"dataset {name} {done}: {found.train:,} photos{test}, {len(found.classes)} classes{ignored}\n"
        f"now run: dvc repro"
    )


def _known(name: str, path: Path, params_file: Path, asked: dict[str, Any]) -> DatasetConfig | None:
    """The dataset of photos that has this name already, if there is one. Raises DataError or ParamsError.

    asked: settings of its transform that the user has given.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ParamsError([f"the name {name!r} must be a letter, then letters, digits, - and _"])
    if problem := unwritable(str(path)):
        raise DataError(f"the path {str(path)!r} {problem}; rename it")
    params = load_params(params_file)
    known = params.datasets.get(name)
    if known and not isinstance(known.source, Images):
        raise ParamsError([f"datasets.{name} is {known.source.name}, not photos that were added; choose another name"])
    for key, value in asked.items():
        if known and value and value != (now := getattr(known.transform, key)):
            raise ParamsError([f"datasets.{name}.transform.{key} is {now}, not {value}; change it in {params_file}"])
    if not known and f"{name}-cnn" in params.experiments:
        raise ParamsError([f"experiments.{name}-cnn is already in {params_file}; choose another name"])
    return known


def _add(
    name: str, values: dict[str, object], found: PhotoCollection, params_file: Path, *, size: int, mode: Mode
) -> None:
    text = SECTIONS.substitute(
        name=name,
        path=json.dumps(values["path"]),
        sha256=values["sha256"],
        classes=json.dumps(values["class_names"], ensure_ascii=False),
        train=found.train,
        test=found.test,
        part="official" if found.test else 0.2,
        shuffle="false" if found.test else "true",
        size=size,
        mode=mode,
    )
    merge(text, params_file, comment="your own photos")


def _renew(name: str, values: dict[str, object], params_file: Path) -> None:
    yaml, params = open_params(params_file)
    written = params["datasets"][name]["source"]
    written.update({key: value for key, value in values.items() if written[key] != value})
    write_params(yaml, params, params_file)
