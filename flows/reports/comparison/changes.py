"""What changed since the report before: in git, in the data, and in the parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flows.reports.comparison import words
from flows.reports.comparison.records import Changes
from learn.evaluation.predictions import read
from tasks.params import Params
from tasks.params.flatten import flatten
from tasks.workspace.git import head, subjects_since
from tasks.workspace.paths import scored_file

DIGITS = 8  # of an md5 or of a commit
LONGEST = 80  # characters of a value

Texts = dict[str, str]  # setting, such as `optimizer.lr` → its value as text


@dataclass(frozen=True)
class State:
    """What a report was made of, as far as it says what changed since."""

    commit: str  # git's last commit; "" without git
    data: dict[str, str]  # split → md5 of its samples; `training` is all that trainings read
    dataset: Texts
    experiments: dict[str, Texts]


@dataclass(frozen=True)
class Record:
    """What is kept with a report in MLflow."""

    made_of: str  # hash of all that it was made of
    state: State
    before: State | None  # of the report before; None for the first one

    def as_json(self) -> bytes:
        """Returns the content of the artifact."""
        return (json.dumps(asdict(self)) + "\n").encode()


def record_from(content: bytes) -> Record | None:
    """Returns the record that `as_json` wrote; None if it is something else, as of another version."""
    try:
        found = json.loads(content)
        before = State(**found["before"]) if found["before"] else None
        return Record(found["made_of"], State(**found["state"]), before)
    except (ValueError, TypeError, KeyError):
        return None


def record_of(
    params: Params, dataset: str, rows: list[dict[str, Any]], made_of: str, last: Record | None
) -> tuple[Record, Changes]:
    """Returns the record of a report that is made now, and what changed since the report before.

    If all is as it was for the last report, then the report before is the one before the last: its page stays the same.

    Args:
        params: The parameters.
        dataset: Name of the dataset.
        rows: The dataset's rows of the table of results, best first.
        made_of: Hash of all that the report is made of.
        last: The record of the last report; None if there is none.
    """
    now = State(
        head(),
        _data(params, dataset, rows),
        _texts(params.dataset(dataset).model_dump()),
        {name: _texts(params.experiment(name).model_dump()) for name in params.experiments_of(dataset)},
    )
    before = last.before if last and last.made_of == made_of else last.state if last else None
    return Record(made_of, now, before), changes(before, now)


def changes(before: State | None, now: State) -> Changes:
    """Returns what changed from one state to the next."""
    if before is None:
        return Changes(is_first=True)
    commits = subjects_since(before.commit) if before.commit and now.commit else []
    data = tuple(
        f"{split} part: md5 {before.data[split][:DIGITS]} → {md5[:DIGITS]}"
        for split, md5 in now.data.items()
        if before.data.get(split, md5) != md5
    )
    parameters = (*_settings("dataset", before.dataset, now.dataset), *_experiments(before, now))
    return Changes(before.commit[:DIGITS], tuple(commits or ()), commits is not None, data, parameters)


def _experiments(before: State, now: State) -> Iterator[str]:
    for name in {**before.experiments, **now.experiments}:
        if name not in before.experiments:
            yield f"{name} is new"
        elif name not in now.experiments:
            yield f"{name} is gone"
        else:
            yield from _settings(name, before.experiments[name], now.experiments[name])


def _settings(title: str, before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for key in {**before, **now}:
        old, new = (_short(texts.get(key, words.DASH)) for texts in (before, now))
        if before.get(key) != now.get(key):
            yield f"{title}: {key} {old} → {new}"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _texts(settings: dict[str, Any]) -> Texts:
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        for key, value in flatten(settings).items()
    }


def _data(params: Params, dataset: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Returns split → md5, as the best experiment was trained and measured; what is not known is left out."""
    found = {"training": md5} if (md5 := next((row["data"] for row in rows if row.get("data")), "")) else {}
    for split in dict.fromkeys((params.dataset(dataset).split.held_out, "test")):
        if rows and (each := read(scored_file(dataset, rows[0]["experiment"]), split)):
            found[split] = each.data
    return found
