"""What a training tells the process that writes its run: one message a line, as JSON, on a pipe and in the journal."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.tracking.lineage import Lineage
from tasks.workspace.files import sha256


@dataclass(frozen=True)
class RunHeader:
    """What is known of a run before it begins: the first line of its journal."""

    key: str  # no other run has it; a run that is delivered again is found by it
    store: str  # its address as messages show it
    folder: str  # where the files of its messages are, below the project's folder
    dataset: str
    experiment: str
    started: int  # milliseconds since 1970
    process: str  # which one writes the run (liveness.py)
    lineage: Lineage
    context: dict[str, str]  # tags: the user, git's commit
    diff: str  # what was not committed


@dataclass(frozen=True)
class Begin:
    """What is known before the first epoch."""

    params: dict[str, Any]  # flattened
    tags: dict[str, str]
    summary: str  # torchinfo's


@dataclass(frozen=True)
class Epoch:
    number: int
    time: int  # milliseconds since 1970
    metrics: dict[str, float]  # as `train/loss`


@dataclass(frozen=True)
class Epochs:
    """Some epochs, in their order."""

    epochs: list[Epoch]


@dataclass(frozen=True)
class Files:
    """What training wrote. Delivered late, the files may have been replaced: the sha256 tells."""

    state_dict: str
    sha256: str  # of the state_dict
    history: str
    seconds: float | None = None  # that the epochs took; None for a run that is rebuilt

    @classmethod
    def of(cls, state_dict: Path, history: Path, seconds: float | None = None) -> Files:
        return cls(str(state_dict), sha256(state_dict), str(history), seconds)


@dataclass(frozen=True)
class End:
    """How training ended; a training that was killed sends none."""

    status: str  # FINISHED or FAILED
    time: int = 0  # milliseconds since 1970; 0: when the message comes


Message = Begin | Epochs | Files | End
KINDS: dict[str, type[Begin | Epochs | Files | End]] = {kind.__name__: kind for kind in (Begin, Epochs, Files, End)}


def encode(message: Message) -> str:
    """The message as a line."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}) + "\n"


def decode(line: str) -> Message:
    """The message in a line. Raises ValueError, KeyError or TypeError if there is none in it."""
    fields = json.loads(line)
    kind = KINDS[fields.pop("kind")]
    if kind is Epochs:
        return Epochs([Epoch(**epoch) for epoch in fields["epochs"]])
    return kind(**fields)


def encode_header(header: RunHeader) -> str:
    """The header as a line."""
    return json.dumps(asdict(header)) + "\n"


def decode_header(line: str) -> RunHeader:
    """The header in a line. Raises ValueError, KeyError or TypeError if there is none in it."""
    fields = json.loads(line)
    return RunHeader(**fields | {"lineage": Lineage(**fields["lineage"])})
