"""Writes values into an experiment of params.yaml, and keeps its comments."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase, CommentedMap, CommentedSeq

from flows.edits.catalog import open_params
from learn.errors import ParamsError
from tasks.params import parse_params, read_yaml
from tasks.sweep.space import with_values
from tasks.workspace.files import write_atomically


def set_values(path: Path, experiment: str, values: dict[str, Any]) -> bool:
    """Gives keys of an experiment other values; returns whether that changed the file.

    Args:
        path: The file params.yaml.
        experiment: The experiment's name.
        values: Key below the experiment, such as optimizer.lr → value.

    Raises:
        ParamsError: The new content has mistakes, or something else in the file would change; nothing was changed.
    """
    right = read_yaml(path)
    changed = with_values(right["experiments"][experiment], values)
    if changed == right["experiments"][experiment]:
        return False
    right["experiments"][experiment] = changed
    yaml, params = open_params(path)
    for key, value in values.items():
        *above, last = key.split(".")
        here = params["experiments"][experiment]
        for name in above:
            here = here.setdefault(name, CommentedMap())
        if here.get(last) != value:
            here[last] = _in_one_line(value)
    text = io.StringIO()
    yaml.dump(params, text)
    written = YAML(typ="safe", pure=True).load(text.getvalue())
    if written != right:
        raise ParamsError(
            [
                f"experiments.{experiment} cannot be changed in {path} by itself: it shares lines with others (&name, "
                "*name); write the values there by hand, then dvc repro"
            ]
        )
    parse_params(written, path)
    write_atomically(path, text.getvalue().encode())
    return True


def _in_one_line(value: Any) -> Any:
    """Returns a value for YAML whose lists and mappings stand in one line."""
    made: CommentedBase
    if isinstance(value, list):
        made = CommentedSeq([_in_one_line(each) for each in value])
    elif isinstance(value, dict):
        made = CommentedMap({key: _in_one_line(each) for key, each in value.items()})
    else:
        return value
    made.fa.set_flow_style()
    return made
