"""params.yaml → frozen Python objects, or one message that names every mistake.

    params = load_params(Path("params.yaml"))
    params.experiments["digits-mlp"].optimizer.arguments["lr"]

YAML is data, so it is checked as JSON is: strictly (an epoch count in quotes is an error), every key known. What only
torch can tell (names of losses and optimizers, shapes) is checked in `learn/checks.py`.
"""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from learn.datasets import DATASETS, Photos, Source
from learn.errors import ParamsError, did_you_mean, printable
from learn.metrics import metrics_for
from learn.photos import CHANNELS, Mode

PARAMS_FILE = Path("params.yaml")
MOST_VALUES = 1_000_000  # in the file, with each alias (*name) as what it stands for


class Section(BaseModel):
    """A mapping in params.yaml: no unknown key, no later change, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Named(Section):
    """Something chosen by name, with arguments beside it: `{name: SGD, lr: 0.1}`."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Optimizer(Named):
    """A class of torch.optim; its learning rate is always written out."""

    lr: Annotated[float, Field(gt=0)]

    @property
    def arguments(self) -> dict[str, Any]:
        return {"lr": self.lr, **super().arguments}


def _test_part(value: Any) -> Any:
    if value != "official" and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1):
        raise ValueError("it must be a fraction between 0 and 1, or official for the set's own test part")
    return value


def _batch_size(value: Any) -> Any:
    if value != "full" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError("it must be a whole number >= 1, or full for all samples at once")
    return value


def _device(value: str) -> str:
    kind, _, index = value.partition(":")
    if not (value in ("auto", "cpu", "mps") or (kind == "cuda" and (":" not in value or index.isdecimal()))):
        raise ValueError("it must be one of auto, cpu, cuda, cuda:INDEX, mps")
    return value


class Split(Section):
    """How a dataset is parted; fractions are of all samples that are not in an official test set."""

    test: Annotated[Any, BeforeValidator(_test_part)]
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shuffle: bool
    stratify: bool = False
    seed: int = Field(ge=0, lt=2**32)

    def sizes(self, free: int, official: int) -> dict[str, int]:
        """Samples in train, validation and test, rounded as scikit-learn does (up for the smaller parts)."""
        test = official if self.test == "official" else math.ceil(self.test * free)
        rest = free if self.test == "official" else free - test
        validation = math.ceil(self.validation * free)
        return {"train": rest - validation, "validation": validation, "test": test}

    @property
    def held_out(self) -> str:
        """The part that is measured after each epoch and ranks the experiments: validation if there is one."""
        return "validation" if self.validation else "test"

    @property
    def parts(self) -> list[str]:
        """The parts that must not be empty."""
        return ["train", *(["validation"] if self.validation else []), "test"]

    @model_validator(mode="after")
    def _agrees(self) -> Split:
        if self.stratify and not self.shuffle:
            raise ValueError("stratify: true needs shuffle: true")
        return self


class Transform(Section):
    """The deterministic part of the input pipeline, done once."""

    resize: Annotated[int, Field(ge=1)] | None = None  # images: to SIZE × SIZE pixels
    mode: Mode | None = None  # photos: colour or grey
    broken: Literal["stop", "leave_out"] | None = None  # photos: what to do where files cannot be read


class Champion(Section):
    """What decides which experiment's model is registered."""

    metric: str


if TYPE_CHECKING:
    AnySource = Source
else:
    AnySource = Annotated[
        Union[tuple(Annotated[cls, Tag(name)] for name, cls in DATASETS.items())],  # noqa: UP007
        Discriminator(lambda value: value.get("name") if isinstance(value, dict) else getattr(value, "name", None)),
    ]


class Dataset(Section):
    """One entry of `datasets`."""

    source: AnySource
    split: Split
    transform: Transform
    champion: Champion

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one transformed input."""
        channels, size = self.source.shape[0], self.transform.resize
        if isinstance(self.source, Photos):
            channels = CHANNELS[self.transform.mode or "RGB"]
        return (channels, size, size) if size else self.source.shape

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples in each part."""
        return self.split.sizes(*self.source.sizes)

    def problems(self) -> list[tuple[str, str]]:
        """(key below the dataset, what is wrong): what only source and settings together can tell."""
        found = []
        if self.split.test == "official" and not self.source.sizes[1]:
            found.append(
                (
                    "split.test",
                    f"is official, but {self.source.name} has no official test set; give a fraction",
                )
            )
        elif self.split.test != "official" and self.source.sizes[1]:
            found.append(
                (
                    "split.test",
                    f"is {self.split.test}, but {self.source.name} has an official test set, which stays as it is; "
                    "it must be official",
                )
            )
        else:
            for part in self.split.parts:
                if self.sizes[part] < 1:
                    key = "split.test" if part == "train" else f"split.{part}"
                    found.append(
                        (
                            key,
                            f"is {getattr(self.split, key.split('.')[1])}: it leaves the {part} part empty "
                            f"({self.source.name} has {sum(self.source.sizes)} samples)",
                        )
                    )
        if self.split.stratify and not self.source.classes:
            found.append(("split.stratify", f"is true, but {self.source.name} has no classes; it must be false"))
        if self.transform.resize and len(self.source.shape) != 3:
            found.append(("transform.resize", f"is {self.transform.resize}, but {self.source.name} has no images"))
        for key, example in (("resize", "64"), ("mode", "RGB (or L, grey)"), ("broken", "stop (or leave_out)")):
            value = getattr(self.transform, key)
            if isinstance(self.source, Photos) and value is None:
                found.append((f"transform.{key}", f"is missing; photos need it, such as {key}: {example}"))
            elif not isinstance(self.source, Photos) and value is not None and key != "resize":
                found.append((f"transform.{key}", f"is {value}, but {self.source.name} has no photo files"))
        allowed = metrics_for(self.source.classes)
        if self.champion.metric not in allowed:
            found.append(("champion.metric", f"is {self.champion.metric}; it must be one of {', '.join(allowed)}"))
        return found


class EarlyStopping(Section):
    """Training ends once the validation part's loss has not improved for so many epochs; the best epoch is kept."""

    patience: Annotated[int, Field(ge=1)]


class Experiment(Section):
    """One entry of `experiments`: one training run."""

    dataset: str
    model: Named
    loss: Named
    optimizer: Optimizer
    scheduler: Named | None = None
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[Any, BeforeValidator(_batch_size)]
    seed: int = Field(ge=0, lt=2**63)
    reseed: bool = True  # again before the first epoch; false: model and batches come from one stream
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    augmentation: list[Named] | None = None  # classes of torchvision.transforms.v2, one after the other
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = None
    early_stopping: EarlyStopping | None = None


Seconds = Annotated[int, Field(ge=1)]


class Timeouts(Section):
    """Seconds that a stage of a flow may take; null is no limit."""

    transform: Seconds | None
    train: Seconds | None


class Schedule(Section):
    """When a deployment starts by itself: at the times of a cron line, or every so many seconds."""

    deployment: Literal["pipeline", "retrain"]
    cron: str | None = None
    interval: Seconds | None = None
    timezone: str = "UTC"
    parameters: dict[str, Any] = {}
    paused: bool = False

    @model_validator(mode="after")
    def _agrees(self) -> Schedule:
        if (self.cron is None) == (self.interval is None):
            raise ValueError("it must have either cron or interval")
        allowed = {"pipeline": {"targets", "workers", "force"}, "retrain": {"dataset", "workers"}}[self.deployment]
        if unknown := set(self.parameters) - allowed:
            raise ValueError(
                f"parameters.{min(unknown)} is not a parameter of {self.deployment}; "
                f"it must be one of {', '.join(sorted(allowed))}"
            )
        if self.deployment == "retrain" and "dataset" not in self.parameters:
            raise ValueError("parameters.dataset is missing: retrain must be told which")
        return self


class Flow(Section):
    """What the Prefect flows need to know; no stage depends on it."""

    timeouts: Timeouts
    notify: list[str]  # Apprise addresses and webhooks; $NAME is taken from the environment
    schedules: list[Schedule]


def _tracking(uri: str | None) -> str | None:
    if uri is not None and not uri.startswith((*STORES, "$")):  # $NAME: known once the environment is
        raise ValueError(f"it must be null or the address of an MLflow store: {', '.join(s + '...' for s in STORES)}")
    return uri


STORES = ("sqlite:///", "http://", "https://", "postgresql", "mysql", "mssql")

# A name becomes a folder, a DVC stage and a word on a command line.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


PLATEAU = "ReduceLROnPlateau"  # the one scheduler that looks at a loss


class Params(Section):
    """The whole of params.yaml."""

    device: Annotated[str, AfterValidator(_device)]
    threads: Annotated[int, Field(ge=1)]
    memory: Literal["auto", "resident", "streamed"]
    mirror: str | None
    tracking: Annotated[str | None, AfterValidator(_tracking)]
    flow: Flow
    datasets: dict[Name, Dataset]
    experiments: dict[Name, Experiment]

    def dataset(self, name: str) -> Dataset:
        return self._entry("datasets", name)

    def experiment(self, name: str) -> Experiment:
        return self._entry("experiments", name)

    def experiments_of(self, dataset: str) -> list[str]:
        """The names of a dataset's experiments, as they stand in the file."""
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
    """Reads and checks the file. Raises ParamsError with a line for each mistake."""
    return parse_params(read_yaml(path), path)


def parse_params(data: Any, path: Path) -> Params:
    """Raises ParamsError with a line for each mistake in the data read from the file."""
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
    except ValidationError as error:
        problems = [_explain(detail) for detail in error.errors()]
    if problems := problems + _missing_datasets(data):
        raise ParamsError([f"{problem} ({path})" for problem in problems])
    return params


def _missing_datasets(data: Any) -> list[str]:
    """Experiments that name a dataset which is not there; on the plain data, so that other mistakes do not hide it."""
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
    """The file as plain data. Raises ParamsError with line and column where it does not parse."""
    from ruamel.yaml import YAML, YAMLError

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
    while todo:  # an alias of an alias of … stands for any number of values
        value = todo.pop()
        values += 1
        if values > MOST_VALUES:
            raise ParamsError([f"{path} has more than {MOST_VALUES:,} values; write them out without aliases (*name)"])
        todo += value.values() if isinstance(value, dict) else value if isinstance(value, list | set) else ()
    return data


def _explain(detail: ErrorDetails) -> str:
    """One of pydantic's findings as `key path is value; what is allowed`."""
    location = _key_path(detail["loc"])
    key = ".".join(location) or "the file"
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        allowed = _known_keys(detail["loc"])
        return f"{key} is not a known key; allowed: {', '.join(allowed)}{did_you_mean(location[-1], allowed)}"
    if detail["type"] == "missing":
        return f"{key} is missing; it must be given"
    if detail["type"] == "union_tag_not_found":
        return f"{key}.name is missing; it must be one of {', '.join(DATASETS)}"
    if detail["type"] == "union_tag_invalid":
        name = detail["input"]["name"]
        return f"{key}.name is {name}; it must be one of {', '.join(DATASETS)}{did_you_mean(str(name), DATASETS)}"
    if detail["type"] == "string_pattern_mismatch":
        return f"{'.'.join(location[:-1])}: a name must be letters, digits, - and _; not {detail['input']!r}"
    message = detail["msg"].removeprefix("Value error, ")
    for long, short in (
        ("Input should be greater than or equal to", "it must be >="),
        ("Input should be less than or equal to", "it must be <="),
        ("Input should be greater than", "it must be >"),
        ("Input should be less than", "it must be <"),
        ("Input should be", "it must be"),
        ("an object", "a mapping"),
        ("a valid dictionary", "a mapping"),
    ):
        message = message.replace(long, short)
    if isinstance(detail["input"], dict) and detail["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key} is {_as_yaml(detail['input'])}; {message}"


def _as_yaml(value: Any) -> str:
    """A value as a user wrote it, cut short where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _key_path(location: tuple[int | str, ...]) -> list[str]:
    """pydantic's location without the tag that it adds for the kind of dataset."""
    parts = [printable(str(part)) for part in location]
    if _in_source(parts):
        del parts[3]
    return parts


def _in_source(parts: list[str]) -> bool:
    return len(parts) > 3 and parts[0] == "datasets" and parts[2] == "source"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys beside the one at this location of pydantic's."""
    parts = [str(part) for part in location]
    if _in_source(parts):
        return [field.name for field in fields(DATASETS[parts[3]])]
    here: Any = Params
    for part in parts[:-1]:
        kind = get_origin(here)
        here = get_args(here)[kind is dict] if kind in (dict, list) else here.model_fields[part].annotation
        if get_origin(here) not in (dict, list):  # X | None → X
            here = next((choice for choice in get_args(here) if choice is not type(None)), here)
    return list(here.model_fields)
