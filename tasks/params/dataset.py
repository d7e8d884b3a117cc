"""One entry of `datasets` in params.yaml: where the data comes from, and what becomes of it before training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from learn.comparison.defaults import LEVEL, MARGIN, MAX_LATENCY_MS, MAX_PARAMETERS, REQUIRE, Require
from learn.data.datasets import DATASETS
from learn.data.indices import STRATIFY, VALIDATION, split_sizes
from learn.data.photos.decode import CHANNELS, Fit, Interpolation, Mode
from learn.data.source import Photos, Source
from learn.data.transformed import (
    BROKEN,
    CROP,
    IMPUTE,
    INTERPOLATION,
    MODE,
    ONE_HOT,
    RESIZE,
    STANDARDIZE,
    feature_count,
)
from learn.evaluation.metrics import metrics_for
from tasks.params.section import Section


def _test_part(value: Any) -> Any:
    if value != "official" and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1):
        raise ValueError("it must be a fraction between 0 and 1, or official for the set's own test part")
    return value


class SplitConfig(Section):
    """How a dataset is split; fractions are of all samples that are not in an official test set."""

    test: Annotated[
        Any,
        BeforeValidator(_test_part),
        WithJsonSchema(
            {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, {"const": "official"}]}
        ),
    ]
    """Fraction of the samples in the test part, or `official` for the test set that the dataset brings along."""
    validation: Annotated[float, Field(ge=0, lt=1)] = VALIDATION
    """Fraction of the samples (without an official test set) in the validation part, which then ranks the experiments;
    0 for no such part."""
    shuffle: bool
    """True: draw the parts at random. False: the first samples are for training."""
    stratify: bool = STRATIFY
    """True: each class has the same share in each part; needs `shuffle: true` and a dataset with classes."""
    seed: int = Field(ge=0, lt=2**32)
    """Seed of the random draw."""

    def sizes(self, free: int, official: int) -> dict[str, int]:
        """Returns the numbers of samples in train, validation and test, rounded as scikit-learn does.

        Args:
            free: Number of samples outside the official test set.
            official: Number of samples in the official test set.
        """
        return split_sizes(self.test, self.validation, free, official)

    @property
    def held_out(self) -> str:
        """The part that is measured after each epoch and ranks the experiments: validation if there is one."""
        return "validation" if self.validation else "test"

    def is_stratified(self, part: str) -> bool:
        """Returns whether each class has the same share in a part as in all samples; an official test set is as it is.

        Args:
            part: `train`, `validation` or `test`.
        """
        return self.stratify and (part, self.test) != ("test", "official")

    @property
    def parts(self) -> list[str]:
        """The parts that must not be empty."""
        return ["train", *(["validation"] if self.validation else []), "test"]

    @model_validator(mode="after")
    def _agrees(self) -> SplitConfig:
        if self.stratify and not self.shuffle:
            raise ValueError("stratify: true needs shuffle: true")
        return self


class TransformConfig(Section):
    """The deterministic part of the input pipeline, done once."""

    resize: Annotated[int, Field(ge=1)] | None = RESIZE
    """Images become this many pixels wide and high. Photos need it; null leaves other images as they are."""
    crop: Annotated[int, Field(ge=1)] | None = CROP
    """Photos only. A photo's shorter side becomes `resize` pixels, and the middle, of this width and height, is cut
    out. null: the whole photo is resized to a square."""
    interpolation: Interpolation = INTERPOLATION
    """Photos only. How they are resized: `bilinear` or `bicubic`."""
    mode: Mode | None = MODE
    """Photos only, and required for them: `RGB` (colour) or `L` (grey)."""
    broken: Literal["stop", "leave_out"] | None = BROKEN
    """Photos only, and required for them: if files cannot be read, `stop` or `leave_out` these files."""
    standardize: bool = STANDARDIZE
    """Tables only. True: each column of numbers gets the mean 0 and the standard deviation 1, by its training part."""
    impute: Literal["mean", "median"] | None = IMPUTE
    """Tables only: what missing numbers become, the `mean` or `median` of the column's training part. null: none may be
    missing."""
    one_hot: bool = ONE_HOT
    """Tables only, and required for categories. True: each category becomes an input that is 0 or 1; all are 0 if the
    category is missing."""

    @property
    def fit(self) -> Fit | None:
        """How a photo becomes a square; None if images are not resized."""
        if not self.resize:
            return None
        return Fit(self.crop or self.resize, self.resize if self.crop else None, self.interpolation)


class ChampionConfig(Section):
    """What decides which experiment's model is registered."""

    metric: str
    """The metric that ranks the dataset's experiments, by its name in `METRICS`."""
    require: Require = REQUIRE
    """What an experiment must be to replace the champion: `separable`, better by more than chance explains; `better`,
    by however little; or `any`, the best one of the table in any case."""
    level: Annotated[float, Field(gt=0, lt=1)] = LEVEL
    """How often equally good models may be told apart, if `require` is `separable`."""
    margin: Annotated[float, Field(ge=0)] = MARGIN
    """By how much more than this an experiment must be better, in the metric's unit."""
    max_parameters: Annotated[int, Field(ge=1)] | None = MAX_PARAMETERS
    """Models with more parameters cannot be champion; null allows any number."""
    max_latency_ms: Annotated[float, Field(gt=0)] | None = MAX_LATENCY_MS
    """Models that take longer for one sample, in milliseconds, cannot be champion; null allows any time."""


if TYPE_CHECKING:
    AnySource = Source
else:
    AnySource = Annotated[
        Union[tuple(Annotated[cls, Tag(name)] for name, cls in DATASETS.items())],  # noqa: UP007
        Discriminator(lambda value: value.get("name") if isinstance(value, dict) else getattr(value, "name", None)),
    ]


class DatasetConfig(Section):
    """One entry of `datasets`."""

    source: AnySource
    """Where the data comes from."""
    split: SplitConfig
    """Which samples are for training, validation and testing."""
    transform: TransformConfig
    """What is done once to all inputs before training; `{}` for nothing."""
    champion: ChampionConfig
    """Which experiment's model becomes the dataset's champion in MLflow."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one transformed input."""
        if self.source.column_kinds and self.transform.one_hot:
            return (feature_count(self.source.column_kinds),)
        channels, size = self.source.shape[0], self.transform.crop or self.transform.resize
        if isinstance(self.source, Photos):
            channels = CHANNELS[self.transform.mode or "RGB"]
        return (channels, size, size) if size else self.source.shape

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples in each part."""
        return self.split.sizes(*self.source.sizes)

    def problems(self) -> list[tuple[str, str]]:
        """(key below the dataset, what is wrong): what only source and settings together can tell."""
        return [*self._problems_of_split(), *self._problems_of_transform(), *self._problems_of_champion()]

    def _problems_of_split(self) -> Iterator[tuple[str, str]]:
        name, sizes = self.source.name, self.source.sizes
        if self.split.test == "official" and not sizes[1]:
            yield "split.test", f"is official, but {name} has no official test set; give a fraction"
        elif self.split.test != "official" and sizes[1]:
            stays = f"but {name} has an official test set, which stays as it is; it must be official"
            yield "split.test", f"is {self.split.test}, {stays}"
        else:
            for part in self.split.parts:
                if self.sizes[part] < 1:
                    key = "test" if part == "train" else part
                    empty = f"it leaves the {part} part empty ({name} has {sum(sizes)} samples)"
                    yield f"split.{key}", f"is {getattr(self.split, key)}: {empty}"
        if self.split.stratify and not self.source.classes:
            yield "split.stratify", f"is true, but {name} has no classes; it must be false"

    def _problems_of_transform(self) -> Iterator[tuple[str, str]]:
        name, photos = self.source.name, isinstance(self.source, Photos)
        if self.transform.resize and len(self.source.shape) != 3:
            yield "transform.resize", f"is {self.transform.resize}, but {name} has no images"
        for key, example in (("resize", "64"), ("mode", "RGB (or L, grey)"), ("broken", "stop (or leave_out)")):
            value = getattr(self.transform, key)
            if photos and value is None:
                yield f"transform.{key}", f"is missing; photos need it, such as {key}: {example}"
            elif not photos and value is not None and key != "resize":
                yield f"transform.{key}", f"is {value}, but {name} has no photo files"
        for key, default in (("crop", CROP), ("interpolation", INTERPOLATION)):
            if not photos and (value := getattr(self.transform, key)) != default:
                yield f"transform.{key}", f"is {value}, but {name} has no photo files"
        if (crop := self.transform.crop) and photos and crop > (self.transform.resize or crop):
            yield "transform.crop", f"is {crop}; it must be at most resize, which is {self.transform.resize}"
        columns = self.source.column_kinds
        for key in ("standardize", "impute", "one_hot"):
            if not columns and (value := getattr(self.transform, key)):
                yield f"transform.{key}", f"is {value if key == 'impute' else 'true'}, but {name} is no table"
        if (
            categories := [column for column, kind in columns.items() if kind != "number"]
        ) and not self.transform.one_hot:
            yield (
                "transform.one_hot",
                f"is false, but the column {categories[0]!r} has categories, and models take numbers; it must be true, "
                "or take the column out of source.columns",
            )

    def _problems_of_champion(self) -> Iterator[tuple[str, str]]:
        allowed = metrics_for(self.source.classes)
        if self.champion.metric not in allowed:
            yield "champion.metric", f"is {self.champion.metric}; it must be one of {', '.join(allowed)}"
