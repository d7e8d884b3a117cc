"""The entries of dvc.lock, parsed and written one by one: all of them together take seconds if there are many."""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from typing import Any

HEAD = "schema: '2.0'\nstages:\n"
ENTRY = re.compile(r"  ([\w@.-]+):\n(?:    .*\n)+")


class Entries(MutableMapping[str, Any]):
    """Name of a stage → its entry; an entry that was read is a copy."""

    def __init__(self, text: str) -> None:
        """Splits the text of dvc.lock.

        Raises:
            ValueError: DVC did not write it so; then it must be parsed as a whole.
        """
        self._texts: dict[str, str] = {}
        place = len(HEAD) if text.startswith(HEAD) else 0
        while (found := ENTRY.match(text, place)) and found[1] not in self._texts:
            self._texts[found[1]] = found[0]
            place = found.end()
        if not self._texts or place < len(text) or "#" in text:
            raise ValueError("a dvc.lock that DVC did not write")

    def __getitem__(self, name: str) -> Any:
        from dvc.utils.serialize import parse_yaml

        return parse_yaml(self._texts[name], "dvc.lock")[name]

    def __setitem__(self, name: str, entry: Any) -> None:
        self._texts[name] = dumped({"stages": {name: entry}}).partition("\n")[2]

    def __delitem__(self, name: str) -> None:
        del self._texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __str__(self) -> str:
        """Returns the text of dvc.lock."""
        return "".join([HEAD, *self._texts.values()])


def dumped(data: Any) -> str:
    """Returns the text that DVC writes for data, by an emitter in C; DVC's own is in Python."""
    from dvc.utils.serialize import dumps_yaml
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import RepresenterError, SafeRepresenter

    class Plain(SafeRepresenter):
        """Writes values as DVC does: None as nothing, ordered mappings as mappings, several lines in quotes."""

        def represent_str(self, data: str) -> Any:
            return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if "\n" in data else None)

    Plain.add_representer(str, Plain.represent_str)
    Plain.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", ""))
    Plain.add_representer(OrderedDict, lambda self, data: self.represent_dict(data))
    yaml: Any = YAML(typ="safe")
    yaml.Representer = Plain
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    text = io.StringIO()
    try:
        yaml.dump(data, text)
    except RepresenterError:
        return dumps_yaml(data)
    return re.sub(r"(?<=:) $", "", text.getvalue(), flags=re.MULTILINE)  # without the space before a None
