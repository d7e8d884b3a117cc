"""Changes a YAML file line by line, so that its comments and its order stay."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from learn.errors import ParamsError
from tasks.params import parse_params, read_yaml


class Text:
    """The lines of a YAML file and the data in them, which are changed together."""

    def __init__(self, file: Path) -> None:
        """Reads the file; raises ParamsError if it is not YAML."""
        self.file = file
        self.data = read_yaml(file)
        text = file.read_text(encoding="utf-8")
        self._lines = text.splitlines(keepends=True)
        self._placed = YAML().load(text)  # has the line and column of each key and value

    def cut(self, section: str, name: str) -> None:
        """Removes the lines of an entry: that of its key, and those below it that are indented further."""
        del self.data[section][name]
        line, column = self._placed[section].lc.key(name)
        end = line + 1
        for number in range(end, len(self._lines)):
            text = self._lines[number]
            if text.strip():
                if len(text) - len(text.lstrip(" ")) <= column:
                    break
                end = number + 1
        self._lines[line:end] = [""] * (end - line)

    def rename(self, section: str, old: str, new: str) -> None:
        """Replaces the key of an entry."""
        entries = self.data[section]
        self.data[section] = {(new if name == old else name): entry for name, entry in entries.items()}
        self._replace(self._placed[section].lc.key(old), old, new)

    def replace(self, path: list[Any], old: str, new: str) -> None:
        """Replaces the name at the end of the value at a path; the value may be a stage's name, such as train@NAME."""
        placed, data = self._placed, self.data
        for key in path[:-1]:
            placed = placed[key]
            data = data[key] if key != old or key in data else data[new]
        last = path[-1]
        value = data[last]
        data[last] = value.removesuffix(old) + new
        positions = placed.lc.data or {}
        if last in positions:  # a value that an alias merges has no position here
            self._replace(positions[last][-2:], value, data[last])

    def _replace(self, place: tuple[int, int], old: str, new: str) -> None:
        line, column = place
        before, after = self._lines[line][:column], self._lines[line][column:]
        self._lines[line] = before + re.sub(rf"^(['\"]?){re.escape(old)}\b", rf"\g<1>{new}", after, count=1)

    def checked(self) -> bytes:
        """Returns the file's new content; raises ParamsError if its data is not what it should be."""
        text = "".join(self._lines)
        try:
            right = YAML(typ="safe", pure=True).load(text) == self.data
        except Exception:  # ruamel.yaml raises several kinds
            right = False
        if not right:
            raise ParamsError(
                [
                    f"this cannot be changed in {self.file} line by line: an entry must have lines of its own, and "
                    "none of it may be used elsewhere (&name, *name); edit the file by hand, then dvc repro"
                ]
            )
        parse_params(self.data, self.file)
        return text.encode()
