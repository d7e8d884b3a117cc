"""Copies a user's table to `data/raw/NAME/`, and adds it to params.yaml (`trackway add-table`)."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from string import Template

import numpy as np

from flows.edits.catalog import merge, open_params, write_params
from flows.edits.columns import Described, describe
from learn.data.datasets.table import Table, raw_name
from learn.data.indices import split_indices
from learn.data.photos.decode import unwritable
from learn.data.transformed import IMBALANCE
from learn.errors import DataError, ParamsError
from tasks.given import separator_of
from tasks.params import load_params
from tasks.workspace.files import atomic_folder, sha256
from tasks.workspace.paths import raw_folder

# Values from outside are written as JSON, which YAML can read, so that no text in them can change the structure.
SECTIONS = Template("""\
datasets:
  $name:
    source:
      name: table
      path: $path
      sha256: $sha256   # of the table: its version
      separator: $separator
      target: $target
      class_names: $classes
      columns:   # the inputs: number, or the categories; a line that you delete takes its column out
$columns
      split_column: $split_column
      train: $train
      test: $test
    split: {test: $part, validation: 0.2, shuffle: true, stratify: $stratify, seed: 42}
    transform: {standardize: true, impute: median, one_hot: true}
    champion: {metric: $metric}

experiments:
  $name-mlp:
    dataset: $name
    model: {name: mlp, hidden_units: [64], activation: ReLU, dropout: 0.1$output}
    loss: {name: $loss}
    optimizer: {name: AdamW, lr: 0.003, weight_decay: 0.01}
    epochs: 50
    batch_size: $batch_size
    seed: 42
""")
FEWEST_ROWS = 10
SMALL = 10_000  # rows, below which small batches are fast enough


def add_table(
    name: str,
    path: Path,
    params_file: Path,
    *,
    target: str,
    split_column: str | None,
    kind: str | None,
) -> str:
    """Copies a table, and adds a dataset with a first experiment, or updates an existing dataset to the new table.

    Args:
        name: The dataset's name.
        path: A CSV or Parquet file.
        params_file: The file params.yaml.
        target: The column that is to be predicted.
        split_column: The column that says `train` or `test`; None if there is none.
        kind: What the target is, `classes` or `numbers`; None to find out.

    Returns:
        What was done, in one or more lines.

    Raises:
        DataError: The table cannot be used; nothing was changed.
        ParamsError: The name or a setting does not fit params.yaml; nothing was changed.
    """
    known = _known(name, path, params_file, {"target": target, "split_column": split_column})
    separator = separator_of(path, target)
    with atomic_folder(raw_folder(name)) as partial:
        shutil.copyfile(path, file := partial / raw_name(separator))
        kept = known.columns if known else None
        found = describe(file, path, separator, target, split_column, kind or _kind_of(known), kept)
        if found.train < FEWEST_ROWS:
            raise DataError(f"{path} has {found.train} rows for training; it must have {FEWEST_ROWS} or more")
        classes, sizes = found.classes, (found.train, found.test)
        digest, columns = sha256(file), found.columns
        table = Table("table", str(path), digest, separator, target, classes, columns, split_column, *sizes)
        if known == table:
            return f"dataset {name} has this table already; nothing was changed"
        if known:
            _renew(name, table, params_file)
        else:
            merge(_sections(name, table, partial), params_file, comment="your own table")
    return _told(name, found, params_file, renewed=known is not None)


def _kind_of(known: Table | None) -> str | None:
    return None if known is None else "classes" if known.class_names else "numbers"


def _known(name: str, path: Path, params_file: Path, asked: dict[str, str | None]) -> Table | None:
    """The table that has this name already, if there is one. Raises DataError or ParamsError.

    asked: settings of its source that the user has given.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ParamsError([f"the name {name!r} must be a letter, then letters, digits, - and _"])
    if problem := unwritable(str(path)):
        raise DataError(f"the path {str(path)!r} {problem}; rename it")
    if not path.is_file():
        raise DataError(f"{path} is not there; it must be a CSV or Parquet file")
    params = load_params(params_file)
    known = params.datasets.get(name)
    if known is None:
        if f"{name}-mlp" in params.experiments:
            raise ParamsError([f"experiments.{name}-mlp is already in {params_file}; choose another name"])
        return None
    if not isinstance(known.source, Table):
        raise ParamsError([f"datasets.{name} is {known.source.name}, not a table that was added; choose another name"])
    for key, value in asked.items():
        if value != (now := getattr(known.source, key)):
            raise ParamsError([f"datasets.{name}.source.{key} is {now}, not {value}; choose another name"])
    return known.source


def _sections(name: str, source: Table, folder: Path) -> str:
    """Returns the sections of a new table, whose file is in the folder, as YAML."""
    targets = source.targets(folder)
    test = "official" if source.test else 0.2
    split = {"test": test, "validation": 0.2, "shuffle": True, "seed": 42}
    stratify = bool(source.classes)
    if stratify:
        try:
            split_indices(targets, *source.sizes, **split, stratify=True)  # type: ignore[arg-type]
        except ValueError:  # a class has too few rows for each part
            stratify = False
    train = targets[split_indices(targets, *source.sizes, **split, stratify=stratify)["train"]]  # type: ignore[arg-type]
    columns = (
        f"        {_json(column)}: {kind if kind == 'number' else _json(kind)}"
        for column, kind in source.columns.items()
    )
    return SECTIONS.substitute(
        name=name,
        path=_json(source.path),
        sha256=source.sha256,
        separator=_json(source.separator),
        target=_json(source.target),
        classes=_json(source.class_names),
        columns="\n".join(columns),
        split_column=_json(source.split_column),
        train=source.train,
        test=source.test,
        part=test,
        stratify=_json(stratify),
        metric=_metric(train) if source.classes else "mae",
        output="" if source.classes else f", output_mean: {_short(train.mean())}, output_scale: {_short(train.std())}",
        loss="CrossEntropyLoss" if source.classes else "L1Loss",
        batch_size=32 if source.train < SMALL else 256,
    )


def _metric(train: np.ndarray) -> str:
    """Returns accuracy, or F1 for classes of which one is so rare that a model that never predicts it looks good."""
    counts = np.bincount(train)
    return "f1_macro" if counts.max() >= IMBALANCE * counts[counts > 0].min() else "accuracy"


def _short(number: float) -> float:
    """Returns a number rounded to three digits."""
    return float(f"{number:.3g}")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _renew(name: str, table: Table, params_file: Path) -> None:
    yaml, params = open_params(params_file)
    written = params["datasets"][name]["source"]
    values = json.loads(json.dumps(asdict(table)))  # lists, as YAML has them
    written.update({key: value for key, value in values.items() if written[key] != value})
    write_params(yaml, params, params_file)


def _told(name: str, found: Described, params_file: Path, *, renewed: bool) -> str:
    done = "has a new version" if renewed else f"and its first experiment {name}-mlp are in {params_file}"
    test = f" and {found.test:,} for testing" if found.test else ""
    categories = sum(kind != "number" for kind in found.columns.values())
    columns = f"columns: {len(found.columns) - categories} of numbers, {categories} of categories"
    target = f"{len(found.classes)} classes" if found.classes else "a number is predicted"
    lines = [f"dataset {name} {done}: {found.train:,} rows{test}; {columns}; {target}"]
    lines += [f"left out: the column {column!r}, {why}" for column, why in found.left_out.items()]
    return "\n".join([*lines, "now run: dvc repro"])
