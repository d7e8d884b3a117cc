"""Asks MLflow where runs and registered versions come from, and which came from some data or some file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from tasks.tracking.delivery import open_store
from tasks.tracking.names import Store
from tasks.tracking.store import all_pages, if_there, told_if_slow
from tasks.tracking.tags import (
    COMMIT,
    DATA_MD5,
    DECISION,
    DIRTY,
    FLOW_RUN_ID,
    NOTE,
    PARENT,
    STAGE,
    STATE_DICT,
    TEST_DATA,
    USER,
    VALIDATION_DATA,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
FLOW_PAGE = re.compile(r"\[Prefect flow run\]\((\S+)\)")  # in a run's description
DATA = (DATA_MD5, VALIDATION_DATA, TEST_DATA)  # tags of a run: what it was trained on, chosen by and measured on


@dataclass(frozen=True)
class Version:
    """A registered version."""

    model: str  # the dataset, or a model that a user registered
    number: str
    aliases: tuple[str, ...]
    run_id: str
    decision: str  # why it became champion or did not; "" if that was never said

    @property
    def title(self) -> str:
        """Text for a message, such as `version 1 of digits (champion)`."""
        return f"version {self.number} of {self.model}" + (f" ({', '.join(self.aliases)})" if self.aliases else "")

    @property
    def names(self) -> list[str]:
        """How it is named: digits@champion and digits/1."""
        return [*(f"{self.model}@{alias}" for alias in self.aliases), f"{self.model}/{self.number}"]


@dataclass(frozen=True)
class Origin:
    """What a run says of where it comes from."""

    run_id: str
    name: str
    status: str
    started: int  # milliseconds since 1970
    data: str  # the path of its training data; "" if it is not known
    parameters: dict[str, str]
    tags: dict[str, str]

    @property
    def data_md5(self) -> str:
        """DVC's md5 of its training data; "" if it is not known."""
        return self.tags.get(DATA_MD5, "")

    @property
    def state_dict(self) -> str:
        """The sha256 of its state_dict; "" if it has none."""
        return self.tags.get(STATE_DICT, "")

    @property
    def stage(self) -> str:
        """DVC's name of the stage that trained it."""
        return self.tags.get(STAGE, "")

    @property
    def user(self) -> str:
        """Who trained it."""
        return self.tags.get(USER, "")

    @property
    def commit(self) -> str:
        """Git's commit; "" if it is not known."""
        return self.tags.get(COMMIT, "")

    @property
    def is_dirty(self) -> bool:
        """Whether there were uncommitted changes, which are then its artifact DIFF."""
        return json.loads(self.tags.get(DIRTY, "false")) is True

    @property
    def parent(self) -> str:
        """The id of the run that it is a part of; "" for none."""
        return self.tags.get(PARENT, "")

    @property
    def flow_run(self) -> str:
        """The id of its Prefect flow run, and its page if there is one; "" without a flow."""
        page = FLOW_PAGE.search(self.tags.get(NOTE, ""))
        return " ".join(filter(None, [self.tags.get(FLOW_RUN_ID, ""), page[1] if page else ""]))


class Provenance:
    """Answers questions about a project's runs and versions in one store. Changes nothing."""

    def __init__(self, client: MlflowClient, store: Store) -> None:
        self._client, self._store = client, store
        models = all_pages(client.search_registered_models)
        aliases: dict[tuple[str, str], list[str]] = {}
        for model in models:
            for alias, number in model.aliases.items():
                aliases.setdefault((model.name, str(number)), []).append(alias)
        self.versions = [
            Version(
                store.dataset(each.name),
                str(each.version),
                tuple(sorted(aliases.get((each.name, str(each.version)), []))),
                each.run_id or "",
                each.tags.get(DECISION, ""),
            )
            for each in all_pages(client.search_model_versions)
            if store.owns(each.name)
        ]

    def version(self, name: str) -> Version | None:
        """Returns the version that NAME@ALIAS or NAME/VERSION means; None if there is none."""
        return next((each for each in self.versions if name in each.names), None)

    def run(self, run_id: str) -> Origin | None:
        """Returns a run by its id; None if there is none."""
        run = if_there(lambda: self._client.get_run(run_id))
        return _origin(run) if run else None

    def of_state_dict(self, sha256: str) -> list[Origin]:
        """Returns the runs that ended with a state_dict, latest first."""
        return self._found([(STATE_DICT, sha256)])

    def of_stage(self, stage: str) -> list[Origin]:
        """Returns the runs of a train stage, latest first."""
        return self._found([(STAGE, stage)])

    def of_data(self, md5s: Iterable[str]) -> list[Origin]:
        """Returns the runs that were trained, chosen or measured on data with one of these md5s, latest first."""
        return self._found([(tag, md5) for tag in DATA for md5 in md5s])

    def of_dataset(self, name: str) -> list[Origin]:
        """Returns all runs of a dataset, latest first."""
        found = self._client.get_experiment_by_name(self._store.name(name))
        runs = all_pages(self._client.search_runs, experiment_ids=[found.experiment_id]) if found else []
        return [_origin(run) for run in runs]

    def versions_of(self, run_ids: Collection[str]) -> list[Version]:
        """Returns the versions that were made from runs."""
        return [each for each in self.versions if each.run_id and each.run_id in run_ids]

    def _found(self, wanted: Iterable[tuple[str, str]]) -> list[Origin]:
        found = all_pages(self._client.search_experiments)
        experiments = [each.experiment_id for each in found if self._store.owns(each.name)]
        runs: dict[str, Run] = {}
        for tag, value in wanted:
            where = {"experiment_ids": experiments, "filter_string": f"tags.`{tag}` = '{value}'"}
            runs |= {run.info.run_id: run for run in all_pages(self._client.search_runs, **where)}
        return [_origin(run) for run in sorted(runs.values(), key=lambda run: -run.info.start_time)]


def _origin(run: Run) -> Origin:
    digest = run.data.tags.get(DATA_MD5)
    sources = [each.dataset.source for each in run.inputs.dataset_inputs if each.dataset.digest == digest]
    return Origin(
        run.info.run_id,
        run.info.run_name,
        run.info.status,
        run.info.start_time,
        sources[0] if sources else "",
        run.data.params,
        run.data.tags,
    )


def asked(store: Store, question: Callable[[Provenance], T]) -> T:
    """Returns the answer to a question about a store.

    Args:
        store: The store.
        question: A function of what the store knows.

    Raises:
        TrackingError: The store cannot be used.
    """
    with told_if_slow(store.uri), open_store(store.uri) as client:
        return question(Provenance(client, store))
