"""Checks that the nodes of a cluster can reach a project's stores."""

from __future__ import annotations

from pathlib import Path

from flows.graph import Graph
from learn.errors import ParamsError
from tasks.params import PARAMS_FILE, Params
from tasks.tracking.address import address


def check_stores(params: Params, graph: Graph) -> None:
    """Raises ParamsError unless nodes without a common disk can reach the data and the runs."""
    problems = []
    if params.tracking and (store := address(params.tracking)).file:
        problems.append(
            f"tracking is {store.shown}, a file on this disk; on a cluster it must be a server, such as "
            f"http://HOST:5000, or null ({PARAMS_FILE})"
        )
    if not graph.repo.config["core"].get("remote"):
        problems.append(
            "there is no DVC remote by which the nodes get data; add one: dvc remote add --default NAME ADDRESS "
            "(docs/storing.md)"
        )
    elif "://" not in (url := graph.remote_address()) and not Path(url).is_dir():
        problems.append(
            f"the DVC remote is {url}, and there is no such folder; on a cluster it must be one that all nodes "
            "have on a common disk, or a server such as S3"
        )
    if problems:
        raise ParamsError(problems)
