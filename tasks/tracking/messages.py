"""The messages from a training to the process that writes its run: one JSON line each, in a pipe and in the journal."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.tracking.lineage import Lineage
from tasks.workspace.files import sha256_of
from tasks.workspace.paths import state_dict_files


@dataclass(frozen=True)
class RunHeader:
    """What is known of a run before it begins; the first line of its journal."""

    key: str  # unique key by which a run that is delivered again is found
    store: str  # the store's address as messages show it
    folder: str  # folder of the files that messages name, below the project's folder
    dataset: str
    experiment: str
    started: int  # milliseconds since 1970
    process: str  # the process that writes the run, as `this_process` in liveness.py returns it
    lineage: Lineage
    context: dict[str, str]  # tags that name the user and git's commit
    diff: str  # a patch of uncommitted changes; "" if there are none
    project: str | None = None  # the project in whose name the run is written


@dataclass(frozen=True)
class Begin:
    """What is known before the first epoch."""

    params: dict[str, Any]  # flattened
    tags: dict[str, str]
    summary: str  # torchinfo's summary of the model
    seed: int | None = None  # the seed whose run this is; None for the experiment's own run
    time: int = 0  # milliseconds since 1970; 0 stands for the time at which the training itself began


@dataclass(frozen=True)
class Epoch:
    """One epoch's metrics."""

    number: int  # counted from 1
    time: int  # end of the epoch, in milliseconds since 1970
    metrics: dict[str, float]  # by their full names, such as `train/loss`


@dataclass(frozen=True)
class Epochs:
    """One or more epochs, in order."""

    epochs: list[Epoch]
    seed: int | None = None


@dataclass(frozen=True)
class Files:
    """The files that training wrote; the sha256 tells whether they were replaced before this message is delivered."""

    models: str  # the folder with the state_dict, or with a folder for each seed
    sha256: str  # of the kept state_dict, or of those of all seeds
    history: str  # path of the file
    seconds: float | None = None  # time that the epochs took; None for a run that is rebuilt
    seed: int | None = None

    @classmethod
    def of(cls, models: Path, history: Path, seconds: float | None = None, seed: int | None = None) -> Files:
        """Returns the message for these files, with the sha256 of the state_dict."""
        return cls(str(models), sha256_of(state_dict_files(models)), str(history), seconds, seed)


@dataclass(frozen=True)
class End:
    """How training ended; a training that was killed does not send it."""

    status: str  # FINISHED or FAILED
    time: int = 0  # milliseconds since 1970; 0 stands for the time at which the message comes
    seed: int | None = None


Message = Begin | Epochs | Files | End
KINDS: dict[str, type[Begin | Epochs | Files | End]] = {kind.__name__: kind for kind in (Begin, Epochs, Files, End)}


def encode(message: Message) -> str:
    """Returns the message as a line."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}) + "\n"


def decode(line: str) -> Message:
    """Returns the message in a line; raises ValueError, KeyError or TypeError if the line holds something else."""
    fields = json.loads(line)
    kind = KINDS[fields.pop("kind")]
    if kind is Epochs:
        return Epochs([Epoch(**epoch) for epoch in fields["epochs"]], fields["seed"])
    return kind(**fields)


def encode_header(header: RunHeader) -> str:
    """Returns the header as a line."""
    return json.dumps(asdict(header)) + "\n"


def decode_header(line: str) -> RunHeader:
    """Returns the header in a line; raises ValueError, KeyError or TypeError if the line holds something else."""
    fields = json.loads(line)
    return RunHeader(**fields | {"lineage": Lineage(**fields["lineage"])})
