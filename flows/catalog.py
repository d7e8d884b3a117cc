"""The catalog: ready-made sections of params.yaml, one file a dataset, in `catalog/`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learn.errors import ParamsError, did_you_mean
from learn.params import parse_params, read_yaml
from tasks.stage import write_atomically

CATALOG = Path(__file__).parent.parent / "catalog"


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
    from ruamel.yaml import YAML

    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise ParamsError([f"{name} is not in the catalog; it has {', '.join(known)}{did_you_mean(name, known)}"])
    parse_params(read_yaml(path), path)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.representer.add_representer(type(None), _null)
    yaml.indent(mapping=2, sequence=4, offset=2)
    params = yaml.load(path.read_text(encoding="utf-8"))
    extra = yaml.load(known[name].file.read_text(encoding="utf-8"))
    keys = [f"{section}.{key}" for section in extra for key in extra[section]]
    taken = [key for key in keys if key.partition(".")[2] in params[key.partition(".")[0]]]
    if taken:
        raise ParamsError([f"{', '.join(taken)} is already in {path}; nothing was changed"])
    for section, content in extra.items():
        params[section].update(content)
        params[section].yaml_set_comment_before_after_key(next(iter(content)), before="from the catalog", indent=2)
    text = io.StringIO()
    yaml.dump(params, text)
    write_atomically(path, text.getvalue().encode())
    return keys


def _null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")
