"""Says where a stage on a node of a cluster comes from: its run in MLflow names the flow's user and commit."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.workspace.environment import ORIGIN


@dataclass(frozen=True)
class Origin:
    """What a node cannot know of the folder in which the flow runs, and the flow not of the node."""

    context: dict[str, str]  # MLflow's tags that name user, commit and source
    uncommitted: str | None  # a patch against the commit; "" if nothing has changed, None without git
    node: str = ""
    resources: str = ""  # what the cluster gave the stage, such as `1 CPU, 0.5 GPU`

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON can hold it."""
        return asdict(self)


def origin() -> Origin | None:
    """Returns where this stage comes from; None if it runs in its flow's folder."""
    if file := os.environ.get(ORIGIN):
        return Origin(**json.loads(Path(file).read_bytes()))
    return None
