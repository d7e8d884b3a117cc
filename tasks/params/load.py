"""Reads params.yaml as frozen Python objects, or raises one error that names every mistake.

The YAML is checked as strictly as JSON (a number of epochs in quotes is an error), and every key must be known. What
only torch can tell (names of losses and optimizers, shapes) is checked in `tasks/params/preflight.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema

from learn.errors import ParamsError, did_you_mean
from tasks.params.dataset import DatasetConfig
from tasks.params.experiment import PLATEAU, ExperimentConfig
from tasks.params.flow import FlowConfig
from tasks.params.messages import explain
from tasks.params.section import Section
from tasks.warm import STAGES
from tasks.workspace.environment import MIRROR

PARAMS_FILE = Path("params.yaml")
MOST_VALUES = 1_000_000  # largest number of values in the file, with each alias (*name) replaced by what it stands for


def _device(value: str) -> str:
    kind, _, index = value.partition(":")
    if not (value in ("auto", "cpu", "mps") or (kind == "cuda" and (":" not in value or index.isdecimal()))):
        raise ValueError("it must be one of auto, cpu, cuda, cuda:INDEX, mps")
    return value


def _tracking(uri: str | None) -> str | None:
    if uri is not None and not uri.startswith((*STORES, "$")):  # $NAME is read from the environment later
        raise ValueError(f"it must be null or the address of an MLflow store: {', '.join(s + '...' for s in STORES)}")
    return uri


STORES = ("sqlite:///", "http://", "https://", "postgresql", "mysql", "mssql")

DEVICE_SCHEMA = {"type": "string", "pattern": "^(auto|cpu|mps|cuda(:[0-9]+)?)$"}
STORE_SCHEMA = {"type": ["string", "null"], "pattern": f"^({'|'.join(STORES)}|[$])"}  # a pattern does not apply to null

# A name becomes a folder, a DVC stage and a word on a command line.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Params(Section):
    """The whole of params.yaml."""

    device: Annotated[str, AfterValidator(_device), WithJsonSchema(DEVICE_SCHEMA)]
    """Where training and evaluation run: `auto` (an accelerator if there is one), `cpu`, `cuda`, `cuda:INDEX`
    or `mps`."""
    threads: Annotated[int, Field(ge=1)]
    """Number of CPU threads of torch in each stage. Another number changes the last bits of the results."""
    memory: Literal["auto", "resident", "streamed"]
    """Where the inputs are while a model trains: `resident` (each part on the device as a whole), `streamed` (read from
    its file batch by batch), or `auto`: streamed if they would take more than half of the device's free memory. The
    results are the same to the bit."""
    mirror: str | None
    """A folder, or a prefix beginning with http:// or https://, that has the datasets' files and is tried first;
    null for none. The environment variable `DATA_MIRROR` goes before it."""
    tracking: Annotated[str | None, AfterValidator(_tracking), WithJsonSchema(STORE_SCHEMA)]
    """Address of the MLflow store: `sqlite:///FILE`, a server (`http://HOST:5000`) or a database; `$NAME` is taken from
    the environment. null: train without MLflow."""
    project: Name | None = None
    """Name of this project in a store that others use too: the dataset `digits` is then called `PROJECT.digits` in
    MLflow, as an experiment and as a registered model. By default it is called `digits`. No stage depends on it; after
    a change `trackway relog` or `trackway run` rebuilds runs and champions under the new names."""
    flow: FlowConfig
    """Settings of the Prefect flows (`trackway run` and `trackway up`)."""
    datasets: dict[Name, DatasetConfig]
    """The datasets: a name for each, and its mapping. Each must be used by an experiment."""
    experiments: dict[Name, ExperimentConfig]
    """The experiments, one training run each: a name for each, and its mapping."""

    @property
    def first_mirror(self) -> str | None:
        """The mirror that is tried before all other sources: that of DATA_MIRROR, else `mirror`; None for none."""
        return os.environ.get(MIRROR) or self.mirror

    def dataset(self, name: str) -> DatasetConfig:
        """Returns a dataset by its name; raises ParamsError if there is none."""
        return self._entry("datasets", name)

    def experiment(self, name: str) -> ExperimentConfig:
        """Returns an experiment by its name; raises ParamsError if there is none."""
        return self._entry("experiments", name)

    def experiments_of(self, dataset: str) -> list[str]:
        """Returns the names of a dataset's experiments, in the order of the file."""
        return [name for name, experiment in self.experiments.items() if experiment.dataset == dataset]

    def _entry(self, section: str, name: str) -> Any:
        entries = getattr(self, section)
        if name not in entries:
            raise ParamsError(
                [
                    f"{section}.{name} is not in {PARAMS_FILE}; it must be one of {', '.join(entries)}"
                    f"{did_you_mean(name, entries)}"
                ]
            )
        return entries[name]


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Reads and checks the file.

    Raises:
        ParamsError: The file has mistakes; the text has a line for each.
    """
    return parse_params(read_yaml(path), path)


def parse_params(data: Any, path: Path) -> Params:
    """Checks data that was read from a file.

    Args:
        data: The content of params.yaml as plain data.
        path: The file, for messages.

    Raises:
        ParamsError: The data has mistakes; the text has a line for each.
    """
    try:
        params = Params.model_validate_json(json.dumps(data, default=str))
        problems = [
            f"datasets.{name}.{key} {message}"
            for name, dataset in params.datasets.items()
            for key, message in dataset.problems()
        ]
        used = {experiment.dataset for experiment in params.experiments.values()}
        problems += [
            f"datasets.{name} is used by no experiment; add one below experiments, or take the dataset out"
            for name in params.datasets
            if name not in used
        ]
        problems += [
            f"experiments.{name}.early_stopping needs a validation part to look at; give datasets.{e.dataset}.split "
            "validation: 0.2, shuffle: true and stratify: true (the test part must not decide when training ends)"
            for name, e in params.experiments.items()
            if e.early_stopping and e.dataset in params.datasets and not params.datasets[e.dataset].split.validation
        ]
        problems += [
            f"experiments.{name}.scheduler.name is {PLATEAU}, which needs a validation part to look at; give "
            f"datasets.{e.dataset}.split validation: 0.2, shuffle: true and stratify: true (the test part must not "
            "decide when the learning rate falls)"
            for name, e in params.experiments.items()
            if e.scheduler and e.scheduler.name == PLATEAU and e.dataset in params.datasets
            if not params.datasets[e.dataset].split.validation
        ]
        known = {*STAGES, *params.datasets, *params.experiments}
        problems += [
            f"flow.resources.{key} is of nothing that there is; it must be a kind of stage ({', '.join(STAGES)}), a "
            f"dataset, an experiment, or a stage such as train@{next(iter(params.experiments), 'NAME')}"
            f"{did_you_mean(key, known)}"
            for key in params.flow.resources
            if not set(key.split("@", 1)) <= known
        ]
    except ValidationError as error:
        problems = [explain(detail, Params) for detail in error.errors()]
    if problems := problems + _missing_datasets(data):
        raise ParamsError([f"{problem} ({path})" for problem in problems])
    return params


def _missing_datasets(data: Any) -> list[str]:
    """Returns a message for each experiment whose dataset does not exist.

    Works on the plain data, so that other mistakes do not hide these.
    """
    if not isinstance(data, dict) or not all(isinstance(data.get(k), dict) for k in ("datasets", "experiments")):
        return []
    datasets = data["datasets"]
    return [
        f"experiments.{name}.dataset is {dataset}; it must be one of the datasets in this file: "
        f"{', '.join(map(str, datasets))}{did_you_mean(dataset, datasets)}"
        for name, experiment in data["experiments"].items()
        if isinstance(experiment, dict)
        and isinstance(dataset := experiment.get("dataset"), str)
        and dataset not in datasets
    ]


def read_yaml(path: Path) -> Any:
    """Reads a YAML file as plain data.

    Raises:
        ParamsError: The file does not exist, is not YAML (the text has line and column), or has too many values.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not path.is_file():
        raise ParamsError([f"{path} is not here; run this in the project's folder (now in {Path.cwd()})"])
    try:
        data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ParamsError([f"{path} is nested too deeply to be read"]) from None
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error)
        raise ParamsError([f"{path}{where} is not YAML: {what}"]) from None
    todo, values = [data], 0
    while todo:  # nested aliases can stand for any number of values
        value = todo.pop()
        values += 1
        if values > MOST_VALUES:
            raise ParamsError([f"{path} has more than {MOST_VALUES:,} values; write them out without aliases (*name)"])
        todo += value.values() if isinstance(value, dict) else value if isinstance(value, list | set) else ()
    return data
