"""Collects what ties a run to DVC, git and Prefect."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass

from tasks.tracking.address import project_folder
from tasks.tracking.tags import (
    CODE_MD5,
    DATA_MD5,
    DVC_ERROR,
    DVC_EXPERIMENT,
    FLOW_RUN_ID,
    FOLDER,
    NODE,
    RESOURCES,
    STAGE,
)
from tasks.workspace.environment import FLOW_RUN, FLOW_RUN_URL
from tasks.workspace.origin import origin
from tasks.workspace.paths import training_folder


@dataclass(frozen=True)
class Lineage:
    """What ties a run to DVC and Prefect."""

    dataset: str
    path: str  # the folder of the training data
    digest: str  # DVC's md5 of that folder, or `unversioned`
    tags: dict[str, str]
    note: str  # link to the Prefect flow run, in Markdown


def lineage_of(stage_name: str, dataset: str) -> Lineage:
    """Returns the lineage of a training stage, with DVC's md5 of the data and code that it reads now.

    Args:
        stage_name: Name of the stage, such as `train@digits-mlp`.
        dataset: Name of the dataset.
    """
    from dvc.exceptions import DvcException

    path = training_folder(dataset).as_posix()
    tags = {STAGE: stage_name}
    if flow_run := os.environ.get(FLOW_RUN):
        tags[FLOW_RUN_ID] = flow_run
    url = os.environ.get(FLOW_RUN_URL)
    note = f"[Prefect flow run]({url})" if url else ""
    for variable, tag in DVC_EXPERIMENT.items():
        if value := os.environ.get(variable):
            tags[tag] = value
    hashes: dict[str, str] = {}
    try:
        hashes = _dependencies(stage_name)
    except DvcException as error:  # run by hand, outside DVC's graph
        tags[DVC_ERROR] = str(error)
    digest = hashes.pop(path, "unversioned")
    tags[DATA_MD5] = digest
    tags[CODE_MD5] = json.dumps(hashes)
    return Lineage(dataset, path, digest, tags, note)


def _dependencies(stage_name: str) -> dict[str, str]:
    """The md5 of each file and folder that a stage depends on, as it is now. Raises DvcException."""
    from dvc.repo import Repo

    with Repo() as repo:
        stage = repo.stage.load_one("dvc.yaml", name=stage_name)
        stage.save_deps()
        return {d.def_path: d.hash_info.value for d in stage.deps if d.hash_info and d.hash_info.name == "md5"}


def git_context() -> dict[str, str]:
    """Returns MLflow's own tags, which name the user and git's commit, and FOLDER; on a cluster the node, too."""
    if there := origin():
        return {**there.context, NODE: there.node, RESOURCES: there.resources}
    from mlflow.tracking.context.registry import resolve_tags

    return {**resolve_tags({}), FOLDER: f"{socket.gethostname()}:{project_folder().absolute()}"}
