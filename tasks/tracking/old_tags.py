"""Gives the tags of an earlier version of Trackway the names of today, which all begin with `trackway.`.

A tag is written with its new name before the old one is deleted, so a kill loses nothing, and the next process goes on.
Then the tag NAMES of an experiment says that this is done; a new experiment has it from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.tracking.store import all_pages, if_there, store_lock
from tasks.tracking.tags import DATA_TAGS, JUDGED, KEY, NAMES, OURS, PREFIXED, STAGE, STATE_DICT, prefixed

if TYPE_CHECKING:
    from mlflow import MlflowClient

OLD_STATE_DICT, OLD_STAGE = STATE_DICT.removeprefix(OURS), STAGE.removeprefix(OURS)
OLD_DATA = tuple(tag.removeprefix(OURS) for tag in DATA_TAGS.values())
# Old names of tags, and beginnings of such names, which end in . or /. Those by which a run or a version is found come
# last, for in this order they are deleted.
OLD_RUN = ("version.", "dvc.data.", "dvc.code.", "dvc.exp.", "dvc.error", "diagnosis", "git.dirty", "model.not_kept",
           "prefect.flow_run", OLD_STATE_DICT, *OLD_DATA, OLD_STAGE)  # fmt: skip
OLD_VERSION = ("experiment", "test/", "validation/", *OLD_DATA, OLD_STATE_DICT)


def rename_old_tags(client: MlflowClient, tracking: str) -> None:
    """Renames the tags of all runs and registered versions, unless that is done already. Idempotent.

    Runs that a user has deleted keep theirs, for MLflow refuses to change them.

    Args:
        client: A client of the store.
        tracking: Address of the store.
    """
    if _is_done(client):
        return
    with store_lock(tracking):
        if _is_done(client):  # another process had the lock
            return
        for version in _with_tag(client.search_model_versions, OLD_STATE_DICT):
            new, old = _renamed(version.tags, OLD_VERSION)
            for tag, value in new.items():
                client.set_model_version_tag(version.name, version.version, tag, value)
            for tag in old:
                client.delete_model_version_tag(version.name, version.version, tag)
        rename_tags_in(client, [each.experiment_id for each in all_pages(client.search_experiments)])


def _is_done(client: MlflowClient) -> bool:
    from mlflow.entities import ViewType

    marked = f"tags.`{NAMES}` = '{PREFIXED}'"
    return bool(client.search_experiments(ViewType.ALL, max_results=1, filter_string=marked))


def rename_tags_in(client: MlflowClient, experiments: list[str]) -> None:
    """Renames the tags of the runs in experiments, and marks those experiments that Trackway has runs in. Idempotent.

    Args:
        client: A client of the store.
        experiments: Ids of the experiments.
    """
    from mlflow.entities import RunTag

    runs = {
        run.info.run_id: run
        for tag in (OLD_STAGE, *OLD_DATA)  # a trial of a sweep has no stage
        for run in _with_tag(client.search_runs, tag, experiment_ids=experiments)
        if not {KEY, STAGE, OLD_STAGE}.isdisjoint(run.data.tags)  # otherwise it is not of Trackway
    }
    if runs:
        print(f"MLflow: the tags of {len(runs):,} runs get names that begin with {OURS}, once", flush=True)
    for run_id, run in runs.items():
        new, old = _renamed(run.data.tags, OLD_RUN)
        was_evaluated = OLD_STAGE in old and not set(OLD_DATA).isdisjoint(old)
        if was_evaluated and JUDGED not in run.data.tags:  # nobody is told of it as of a new model
            new[JUDGED] = "true"
        if new:
            client.log_batch(run_id, tags=[RunTag(*tag) for tag in new.items()])
        for tag in old:
            if_there(partial(client.delete_tag, run_id, tag))  # without a lock another process may have deleted it
    here = list(runs.values()) or client.search_runs(experiments, f"tags.`{STAGE}` LIKE '%'", max_results=1)
    for experiment in {run.info.experiment_id for run in here}:
        client.set_experiment_tag(experiment, NAMES, PREFIXED)


def _with_tag(search: Callable[..., Any], tag: str, **where: Any) -> Iterable[Any]:
    """Returns what has a tag, whatever its value is; the search is one of MLflow's."""
    return all_pages(search, filter_string=f"tags.`{tag}` LIKE '%'", **where)


def _renamed(tags: dict[str, str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Returns the tags to be written, and then those to be deleted, in the order of `names`.

    Args:
        tags: The tags of a run or a version.
        names: Old names, or beginnings of such names.
    """
    old = [tag for name in names for tag in tags if tag == name or (name.endswith((".", "/")) and tag.startswith(name))]
    new = prefixed({tag: tags[tag] for tag in old})
    return {tag: value for tag, value in new.items() if tag not in tags}, old
