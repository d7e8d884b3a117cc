"""The outcome of a stage, which it leaves for the flow that started it in the file that the flow names.

A stage that DVC restored from its cache did not run, and leaves no outcome.
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

    summary: str  # a line that says what the stage made, or the message of its error
    error: str = ""  # name of the error's class, if it is one that a user can cause
    champion: str = ""  # a sentence that says which model has become champion; "" if none has
    refused: str = ""  # a sentence that says why no new model has become champion; "" if there is none to judge


def tell(outcome: Outcome) -> None:
    """Leaves the outcome for the flow; without a flow it does nothing."""
    if file := os.environ.get(OUTCOME):
        partial = Path(f"{file}.partial")
        partial.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
        partial.replace(file)


def told(file: Path) -> Outcome | None:
    """Returns the outcome that a stage left in a file; None if the stage did not run, or was killed."""
    return Outcome(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
