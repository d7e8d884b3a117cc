"""Checks the spaces of a sweep as params.yaml is checked, before any trial."""

from __future__ import annotations

import json
from typing import Any

from learn.errors import ParamsError
from tasks.params import PARAMS_FILE
from tasks.sweep.space import Dimension, with_values


def check_space(data: dict[str, Any], experiment: str, settings: dict[str, Any], space: list[Dimension]) -> None:
    """Tries each choice and both ends of each span, with the first value of every other key.

    Args:
        data: The content of params.yaml.
        experiment: The experiment's name.
        settings: The experiment, with one seed.
        space: What the sweep may change.

    Raises:
        ParamsError: A key is not known, or a value does not fit; the text has a line for each mistake.
    """
    from tasks.params.preflight import check_data

    problems: dict[str, None] = {}  # in the order in which they were found
    for dimension in space:
        try:
            with_values(settings, {dimension.key: None})
        except ValueError as error:
            problems[f"experiments.{experiment}.{error} (-S {dimension.key}={dimension.text})"] = None
    if problems:
        raise ParamsError(list(problems))
    tried = set()
    first = {dimension.key: dimension.space.extremes[0] for dimension in space}
    for dimension in space:
        for value in dimension.space.extremes:
            candidate = with_values(settings, first | {dimension.key: value})
            if (text := json.dumps(candidate, default=str, sort_keys=True)) in tried:
                continue
            tried.add(text)
            if (devices := candidate.get("devices", 1)) != 1:
                key = f"experiments.{experiment}.devices"
                problems[
                    _with_source(f"{key} is {devices}; a trial is one process, so it must be 1", experiment, space)
                ] = None
            try:
                check_data(only(data, experiment, candidate), PARAMS_FILE)
            except ParamsError as error:
                found = (problem.removesuffix(f" ({PARAMS_FILE})") for problem in error.problems)
                problems |= dict.fromkeys(_with_source(problem, experiment, space) for problem in found)
    if problems:
        raise ParamsError(list(problems))


def only(data: dict[str, Any], experiment: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of params.yaml with one experiment, with these settings, and its dataset."""
    dataset = settings["dataset"]
    return data | {"datasets": {dataset: data["datasets"][dataset]}, "experiments": {experiment: settings}}


def _with_source(problem: str, experiment: str, space: list[Dimension]) -> str:
    """Returns a message with the option that is wrong, if it names that option's key."""
    for dimension in space:
        if problem.startswith(f"experiments.{experiment}.{dimension.key}"):
            return f"{problem} (-S {dimension.key}={dimension.text})"
    return f"{problem} ({' '.join(f'-S {dimension.key}={dimension.text}' for dimension in space)})"
