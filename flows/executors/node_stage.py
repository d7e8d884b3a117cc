"""Brings what a stage reads from DVC's remote, runs the stage, and pushes what it made; it runs in a work folder.

    python -m flows.executors.node_stage FOLDER

The first line of its standard input is the flow's request, in JSON. FOLDER/made.json, for the flow, is written if the
stage succeeds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from learn.errors import ServerError
from tasks.lifeline import end_with_starter
from tasks.workspace.files import write_atomically

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

LOCK = Path("dvc.lock")


def main() -> int:
    """Returns the exit code of DVC; 1 if the remote fails."""
    request = json.loads(sys.stdin.readline())
    end_with_starter()
    from dvc.cli import main as dvc
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.utils.serialize import dumps_yaml, load_yaml

    from flows.executors.transfers import fetch, push
    from tasks.atomic_dvc import mend

    mend()
    name, config = request["stage"], request["config"]
    LOCK.write_text(dumps_yaml({"schema": "2.0", "stages": request["lock"]}), encoding="utf-8")
    url = config["remote"][config["core"]["remote"]]["url"]
    if "://" not in url and not Path(url).is_dir():
        print(f"error: {name}: the DVC remote is {url}, which this node does not have; all nodes must reach it")
        return 1
    try:
        with Repo(config=config) as repo:
            fetched = fetch(repo, list(_needed(repo, request["needs"])))
            if code := dvc(["repro", "--quiet", "--single-item", *(["--force"] if request["force"] else []), name]):
                return code
            pushed = push(repo, repo.stage.load_one("dvc.yaml", name=name).outs)
    except (DvcException, ServerError) as error:
        print(f"error: {name}: {' '.join(str(error).split())}")
        return 1
    made = {"entry": load_yaml(LOCK)["stages"][name], "fetched": fetched, "pushed": pushed}
    write_atomically(Path(sys.argv[1]) / "made.json", json.dumps(made).encode())
    return 0


def _needed(repo: Repo, needs: dict[str, list[str]]) -> Iterable[Output]:
    """Yields outputs of other stages.

    Args:
        repo: The work folder's.
        needs: Name of a stage → the paths of its outputs that are needed.
    """
    for name, paths in needs.items():
        for out in repo.stage.load_one("dvc.yaml", name=name).outs:
            if out.def_path in paths:
                yield out


if __name__ == "__main__":
    sys.exit(main())
