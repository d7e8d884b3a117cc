"""Merges sections of params.yaml from the catalog: each file in `catalog/` has experiments, and datasets for them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from learn.errors import ParamsError, did_you_mean
from tasks.params import parse_params, read_yaml
from tasks.workspace.files import write_atomically

CATALOG = Path(__file__).parents[2] / "catalog"


@dataclass(frozen=True)
class Entry:
    """One file of the catalog."""

    name: str
    summary: str  # the comment in the first line of the file
    file: Path

    def is_in(self, params: dict[str, Any]) -> bool:
        """Returns whether params.yaml has one of the entry's experiments."""
        return not read_yaml(self.file)["experiments"].keys().isdisjoint(params.get("experiments") or {})


def entries() -> list[Entry]:
    """Returns the entries of the catalog, which `trackway ls` lists."""
    return [
        Entry(file.stem, file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# "), file)
        for file in sorted(CATALOG.glob("*.yaml"))
    ]


def add_to_params(name: str, path: Path) -> list[str]:
    """Merges an entry of the catalog into params.yaml, which keeps its comments, and returns the keys added.

    Raises:
        ParamsError: The name is unknown, or a key exists already; nothing was changed.
    """
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise ParamsError([f"{name} is not in the catalog; it has {', '.join(known)}{did_you_mean(name, known)}"])
    return merge(known[name].file.read_text(encoding="utf-8"), path, comment="from the catalog")


def merge(extra: str, path: Path, comment: str) -> list[str]:
    """Merges sections into params.yaml, which keeps its comments, and returns the keys added.

    A dataset that is there already, from the same source, stays as it is; new experiments are added to it.

    Args:
        extra: The sections as YAML text.
        path: The file params.yaml.
        comment: Written above the first key of each section.

    Raises:
        ParamsError: The file has mistakes, would have some, or has a key already; nothing was changed.
    """
    parse_params(read_yaml(path), path)
    yaml, params = open_params(path)
    sections = yaml.load(extra)
    taken = [(section, key) for section in sections for key in sections[section] if key in params[section]]
    if not all(_same_source(params, sections, *key) for key in taken):
        names = ", ".join(map(".".join, taken))
        raise ParamsError([f"{names} {'is' if len(taken) == 1 else 'are'} already in {path}; nothing was changed"])
    for section, key in taken:
        del sections[section][key]
    for section, content in filter(lambda each: each[1], sections.items()):
        params[section].update(content)
        params[section].yaml_set_comment_before_after_key(next(iter(content)), before=comment, indent=2)
    write_params(yaml, params, path)
    return [f"{section}.{key}" for section in sections for key in sections[section]]


def _same_source(params: Any, sections: Any, section: str, key: str) -> bool:
    """Returns whether a key that two files have is a dataset with the same source in both."""
    return section == "datasets" and params[section][key]["source"] == sections[section][key]["source"]


def open_params(path: Path) -> tuple[Any, Any]:
    """Returns a YAML reader and the file's content as it read it; when it writes, comments and quotes are kept."""
    yaml: Any = YAML()
    yaml.Representer = _WithNull
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml, yaml.load(path.read_text(encoding="utf-8"))


def write_params(yaml: Any, params: Any, path: Path) -> None:
    """Writes params.yaml after checking the new content.

    Args:
        yaml: The reader from `open_params`.
        params: The content from `open_params`, changed.
        path: The file.

    Raises:
        ParamsError: The new content has mistakes; nothing was changed.
    """
    text = io.StringIO()
    yaml.dump(params, text)
    parse_params(YAML(typ="safe", pure=True).load(text.getvalue()), path)
    write_atomically(path, text.getvalue().encode())


class _WithNull(RoundTripRepresenter):
    """Writes None as `null`. A class of its own, for ruamel keeps representers in the class, and DVC uses ruamel's."""


_WithNull.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))
