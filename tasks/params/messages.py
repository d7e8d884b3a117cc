"""Turns pydantic's errors about params.yaml into messages that name the key, its value and what is allowed."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from learn.data.datasets import DATASETS
from learn.errors import did_you_mean, printable
from tasks.params.flow import ALLOWED


def explain(detail: ErrorDetails, whole: type[BaseModel]) -> str:
    """Returns one of pydantic's errors as the message `key is value; what is allowed`.

    Args:
        detail: The error.
        whole: The class of the whole file, in which the error's key is looked up.
    """
    location = _key_path(detail["loc"])
    key = ".".join(location) or "the file"
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        allowed = _known_keys(detail["loc"], whole)
        return f"{key} is not a known key; allowed: {', '.join(allowed)}{did_you_mean(location[-1], allowed)}"
    if detail["type"] == "missing":
        return f"{key} is missing; it must be given"
    if detail["type"] == "union_tag_not_found":
        return f"{key}.name is missing; it must be one of {', '.join(DATASETS)}"
    if detail["type"] == "union_tag_invalid":
        name = detail["input"]["name"]
        return f"{key}.name is {name}; it must be one of {', '.join(DATASETS)}{did_you_mean(str(name), DATASETS)}"
    if detail["type"] == "string_pattern_mismatch" and (allowed_text := ALLOWED.get(detail["ctx"]["pattern"])):
        return f"{key} is {_as_yaml(detail['input'])}; it must be {allowed_text}"
    if detail["type"] == "string_pattern_mismatch":
        key = ".".join(part for part in location if part != "[key]")
        return f"{key}: a name must be letters, digits, - and _; not {detail['input']!r}"
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
    """Returns a value as a user would write it, cut to 60 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _key_path(location: tuple[int | str, ...]) -> list[str]:
    """Returns pydantic's location without the part that it adds for the kind of dataset."""
    parts = [printable(str(part)) for part in location]
    if _in_source(parts):
        del parts[3]
    return parts


def _in_source(parts: list[str]) -> bool:
    return len(parts) > 3 and parts[0] == "datasets" and parts[2] == "source"


def _known_keys(location: tuple[int | str, ...], whole: type[BaseModel]) -> list[str]:
    """Returns the keys that are allowed beside the one at pydantic's location."""
    parts = [str(part) for part in location]
    if _in_source(parts):
        return [field.name for field in fields(DATASETS[parts[3]])]
    here: Any = whole
    for part in parts[:-1]:
        kind = get_origin(here)
        here = get_args(here)[kind is dict] if kind in (dict, list) else here.model_fields[part].annotation
        if get_origin(here) not in (dict, list):  # X | None → X
            here = next((choice for choice in get_args(here) if choice is not type(None)), here)
    return list(here.model_fields)
