"""The catalog: ready-made sections of params.yaml, one file a dataset, in `catalog/`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from learn.errors import ParamsError, did_you_mean
from tasks.params import parse_params, read_yaml
from tasks.workspace.files import write_atomically

CATALOG = Path(__file__).parents[2] / "catalog"


@dataclass(frozen=True)
class Entry:
    name: str
    summary: str  # the first line of the file, a comment
    file: Path


def entries() -> list[Entry]:
    """What `trackway ls` lists."""
    return [
        Entry(file.stem, file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# "), file)
        for file in sorted(CATALOG.glob("*.yaml"))
    ]


def add_to_params(name: str, path: Path) -> list[str]:
    """Merges an entry into params.yaml, which keeps its comments; returns the keys added.

    Raises ParamsError, with nothing changed, where the name is unknown or a key is there already.
    """
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise ParamsError([f"{name} is not in the catalog; it has {', '.join(known)}{did_you_mean(name, known)}"])
    return merge(known[name].file.read_text(encoding="utf-8"), path, comment="from the catalog")


def merge(extra: str, path: Path, comment: str) -> list[str]:
    """Merges sections, as YAML text, into params.yaml; returns the keys added. Raises ParamsError, as above."""
    parse_params(read_yaml(path), path)
    yaml, params = open_params(path)
    sections = yaml.load(extra)
    keys = [f"{section}.{key}" for section in sections for key in sections[section]]
    taken = [key for key in keys if key.partition(".")[2] in params[key.partition(".")[0]]]
    if taken:
        raise ParamsError(
            [f"{', '.join(taken)} {'is' if len(taken) == 1 else 'are'} already in {path}; nothing was changed"]
        )
    for section, content in sections.items():
        params[section].update(content)
        params[section].yaml_set_comment_before_after_key(next(iter(content)), before=comment, indent=2)
    write_params(yaml, params, path)
    return keys


def open_params(path: Path) -> tuple[Any, Any]:
    """A round-trip YAML reader, and the file as it read it: comments and quotes are kept."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.representer.add_representer(type(None), _null)
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml, yaml.load(path.read_text(encoding="utf-8"))


def write_params(yaml: Any, params: Any, path: Path) -> None:
    """Writes params.yaml, if what is to be written is right; raises ParamsError, with nothing changed."""
    text = io.StringIO()
    yaml.dump(params, text)
    parse_params(YAML(typ="safe", pure=True).load(text.getvalue()), path)
    write_atomically(path, text.getvalue().encode())


def _null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")
