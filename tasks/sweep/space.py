"""Turns `optimizer.lr=loguniform(1e-4,1)` into the values that a sweep may try for a key of an experiment.

A space is a YAML list of choices, `uniform(a,b)`, `loguniform(a,b)`, `int(a,b)` or `logint(a,b)`; a and b belong to it.
"""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from learn.errors import ParamsError, did_you_mean

KEY = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*")
CALL = re.compile(r"([A-Za-z_]\w*)\((.*)\)")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
WHOLE = re.compile(r"[+-]?\d+")
DIGITS = 4  # significant digits of a number that is drawn, so that params.yaml stays readable
SPANS = {"uniform": (False, False), "loguniform": (False, True), "int": (True, False), "logint": (True, True)}
ALLOWED = f"a list of choices such as [32, 64], {', '.join(f'{name}(a,b)' for name in SPANS)}"
EXAMPLE = "'optimizer.lr=loguniform(1e-4,1)'"
# What must be the same in all trials, and why.
FIXED = {
    "dataset": "the metrics of two datasets cannot be compared",
    "seed": "a lucky seed is no better setting",
    "seeds": "a lucky seed is no better setting",
}


@dataclass(frozen=True)
class Choice:
    """One of several values of any kind."""

    values: tuple[Any, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The values as text, by which Optuna knows them."""
        return tuple(map(as_text, self.values))

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values that show whether the space fits: all of them."""
        return self.values

    def value(self, drawn: Any) -> Any:
        """Returns the value that Optuna drew by its label."""
        return copy.deepcopy(self.values[self.labels.index(drawn)])


@dataclass(frozen=True)
class Span:
    """A number between two others."""

    low: float
    high: float
    whole: bool  # only whole numbers
    log: bool  # each order of magnitude is as likely as another

    @property
    def extremes(self) -> tuple[float, ...]:
        """The values that show whether the space fits: both ends."""
        return self.low, self.high

    def value(self, drawn: float) -> float:
        """Returns the number that Optuna drew, rounded to DIGITS significant digits if it need not be whole."""
        if self.whole:
            return int(drawn)
        return min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Dimension:
    """A key of the experiment, and the values that a sweep may give it."""

    key: str  # below the experiment, such as optimizer.lr
    text: str  # the space as it was written
    space: Choice | Span


def parse(texts: list[str]) -> list[Dimension]:
    """Reads the spaces of a sweep, each written KEY=SPACE, and returns them sorted by key.

    Raises:
        ParamsError: Some of them cannot be read, or do not go together; the text has a line for each.
    """
    found: list[Dimension] = []
    problems = []
    for text in texts:
        try:
            found.append(_dimension(text))
        except ValueError as error:
            problems.append(f"-S {text}: {error}")
    keys = sorted(dimension.key for dimension in found)
    problems += [
        f"-S {key} is given twice; give each key once" for key in sorted({k for k in keys if keys.count(k) > 1})
    ]
    problems += [
        f"-S {key} and -S {other}: {other} lies in {key}; give one of them"
        for key in keys
        for other in keys
        if other.startswith(f"{key}.")
    ]
    if problems:
        raise ParamsError(problems)
    return sorted(found, key=lambda dimension: dimension.key)


def _dimension(text: str) -> Dimension:
    key, equals, space = (part.strip() for part in text.partition("="))
    if not equals:
        raise ValueError(f"it must be KEY=SPACE, such as {EXAMPLE}")
    if not KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key; it must be names with dots between them, such as optimizer.lr")
    if key in FIXED:
        raise ValueError(f"{key} must be the same in all trials: {FIXED[key]}")
    call = CALL.fullmatch(space)
    return Dimension(key, space, _span(call[1], call[2]) if call else _choice(space))


def _span(name: str, arguments: str) -> Span:
    if name not in SPANS:
        raise ValueError(f"{name} is no space; it must be {ALLOWED}{did_you_mean(name, SPANS)}")
    whole, log = SPANS[name]
    numbers = [number.strip() for number in arguments.split(",")]
    if len(numbers) != 2:
        raise ValueError(f"{name} takes two numbers, the lowest and the highest, such as {name}(1,10)")
    for number in numbers:
        if not (WHOLE if whole else NUMBER).fullmatch(number) or not math.isfinite(float(number)):
            raise ValueError(f"{number or 'nothing'} is no {'whole ' if whole else ''}number, which {name} takes")
    low, high = (int(number) if whole else float(number) for number in numbers)
    if low >= high:
        raise ValueError(f"{numbers[0]} must be less than {numbers[1]}")
    if log and low <= 0:
        raise ValueError(f"{numbers[0]} must be greater than 0, for {name} draws from the logarithms")
    return Span(low, high, whole, log)


def _choice(text: str) -> Choice:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, RecursionError) as error:
        raise ValueError(f"this is no YAML: {getattr(error, 'problem', None) or error}; it must be {ALLOWED}") from None
    if not isinstance(values, list):
        raise ValueError(f"it must be {ALLOWED}")
    if len(values) < 2:
        raise ValueError("it must have two choices or more")
    labels = list(map(as_text, values))
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"{twice[0]} is there twice; give each choice once")
    return Choice(tuple(values))


def as_text(value: Any) -> str:
    """Returns a value as a user would write it in one line of YAML."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def with_values(settings: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of an experiment's settings with other values.

    Args:
        settings: The experiment, as params.yaml has it.
        values: Key below the experiment, such as optimizer.lr → value.

    Raises:
        ValueError: A key leads through a value that is no mapping.
    """
    changed = copy.deepcopy(settings)
    for key, value in values.items():
        here, names = changed, key.split(".")
        for depth, name in enumerate(names[:-1], start=1):
            here = here.setdefault(name, {})
            if not isinstance(here, dict):
                above = ".".join(names[:depth])
                raise ValueError(f"{above} is {as_text(here)}, which has no keys; sweep {above} itself")
        here[names[-1]] = copy.deepcopy(value)
    return changed


def without(settings: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """Returns a copy of an experiment's settings without some keys, each written as in `with_values`."""
    left = copy.deepcopy(settings)
    for key in keys:
        *above, last = key.split(".")
        here: Any = left
        for name in above:
            here = here.get(name) if isinstance(here, dict) else None
        if isinstance(here, dict):
            here.pop(last, None)
    return left


def with_one_seed(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns an experiment's settings with the first of its seeds, if it has several."""
    if not settings.get("seeds"):
        return settings
    return {key: value for key, value in settings.items() if key != "seeds"} | {"seed": settings["seeds"][0]}
