"""Checks that a project's data and runs are where other machines reach them."""

from __future__ import annotations

from pathlib import Path

from flows.graph import Graph
from learn.errors import ParamsError
from tasks.params import PARAMS_FILE, Params
from tasks.tracking.address import address


def unshared(params: Params, graph: Graph, when: str, purpose: str) -> list[str]:
    """Returns what is wrong if only this disk has the runs or the data.

    Args:
        params: The content of params.yaml.
        graph: DVC's graph.
        when: What needs them elsewhere, such as `on a cluster`.
        purpose: What a DVC remote is for then, such as `to publish to`.
    """
    problems = []
    if params.tracking and (store := address(params.tracking)).file:
        problems.append(
            f"tracking is {store.shown}, a file on this disk; {when} it must be a server, such as http://HOST:5000, "
            f"or null ({PARAMS_FILE})"
        )
    if not graph.remote_address():
        problems.append(
            f"there is no DVC remote {purpose}; add one: dvc remote add --default NAME ADDRESS (docs/storing.md)"
        )
    return problems


def check_stores(params: Params, graph: Graph) -> None:
    """Raises ParamsError unless nodes without a common disk can reach the data and the runs."""
    problems = unshared(params, graph, "on a cluster", "by which the nodes get data")
    if (url := graph.remote_address()) and "://" not in url and not Path(url).is_dir():
        problems.append(
            f"the DVC remote is {url}, and there is no such folder; on a cluster it must be one that all nodes "
            "have on a common disk (mkdir makes it), or a server such as S3"
        )
    if problems:
        raise ParamsError(problems)
