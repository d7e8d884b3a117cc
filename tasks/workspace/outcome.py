"""What a stage has to say to the flow that started it: a record, in the file that the flow names.

A stage that DVC restored from its cache did not run, and leaves none.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.workspace.environment import OUTCOME


@dataclass(frozen=True)
class Outcome:
    """How a stage ended."""

    summary: str  # what it made, in a line; or the message of its error
    error: str = ""  # the class of the error, if it is one that a user can cause
    champion: str = ""  # which model has become champion, as a sentence


def tell(outcome: Outcome) -> None:
    """Leaves it for the flow, if there is one."""
    if file := os.environ.get(OUTCOME):
        partial = Path(f"{file}.partial")
        partial.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
        partial.replace(file)


def told(file: Path) -> Outcome | None:
    """What the stage left there; None if it did not run, or was killed."""
    return Outcome(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
