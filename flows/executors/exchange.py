"""Exchanges outputs and entries of dvc.lock between a flow and its stages on other machines, by DVC's remote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

from dvc.exceptions import DvcException
from dvc.stage import PipelineStage
from dvc.stage.loader import StageLoader
from dvc.utils.serialize import load_yaml
from dvc_data.hashfile.hash_info import HashInfo

from flows.executors.transfers import fetch, push
from flows.graph import DVC_LOCK, Graph
from learn.errors import ServerError
from tasks.lock_entries import Entries


class Exchange:
    """What a flow gives to stages elsewhere, and takes over from them."""

    def __init__(self, graph: Graph) -> None:
        self._graph, self._repo = graph, graph.repo
        self._sent: set[str] = set()  # stages whose outputs are in the remote

    def send(self, needs: dict[str, list[str]]) -> None:
        """Pushes outputs to the remote, those of each stage once.

        Args:
            needs: Name of a stage → the paths of its outputs.

        Raises:
            ServerError: DVC failed.
        """
        with self._graph.one_thread:
            new = [name for name in needs if name not in self._sent]
            entries = self.entries(new)
            for name in new:
                StageLoader.fill_from_lock(self._graph.stages[name], entries.get(name))
            with _dvc_told("what the next stages read could not be pushed"):
                push(self._repo, [out for name in new for out in self._graph.stages[name].outs])
            self._sent.update(needs)

    def take_over(self, name: str, entry: dict[str, Any]) -> None:
        """Takes over a stage that has run on another machine, which has pushed its outputs: outputs, then dvc.lock.

        Args:
            name: The stage.
            entry: Its entry of dvc.lock there.

        Raises:
            ServerError: DVC failed; dvc.lock is as before.
        """

        def take() -> None:
            stage = self._graph.stages[name]
            StageLoader.fill_from_lock(stage, entry)
            fetch(self._repo, stage.outs)
            self._repo.stage_cache.save(stage)  # so `dvc repro` restores it, as after a run here
            stage.dump(update_pipeline=False)
            self._sent.add(name)

        with _dvc_told(f"what {name} has made could not be fetched"):
            self._graph.when_free(take)

    def is_remembered(self, name: str) -> bool:
        """Returns whether DVC's cache here has what a stage made from the same inputs, so that it need not run."""
        with self._graph.one_thread:
            stage = _without_outputs(self._graph.stages[name])
            try:
                stage.save_deps()
                self._repo.stage_cache.restore(stage, dry=True)
            except DvcException:
                return False
            return True

    def entries(self, names: Iterable[str]) -> dict[str, Any]:
        """Returns the entries of dvc.lock of those stages that have one."""
        with self._graph.one_thread:
            if not DVC_LOCK.is_file():
                return {}
            try:
                lock: Any = Entries(DVC_LOCK.read_text(encoding="utf-8"))
            except ValueError:
                lock = load_yaml(DVC_LOCK)["stages"]
            return {name: lock[name] for name in names if name in lock}

    def config(self) -> dict[str, Any]:
        """Returns the part of DVC's configuration by which another machine reaches the default remote."""
        name = self._repo.config["core"]["remote"]
        remote = {
            key: value if isinstance(value, int | float | bool) else str(value)
            for key, value in self._repo.config["remote"][name].items()
        }
        return {"core": {"remote": name}, "remote": {name: remote}}


def _without_outputs(stage: PipelineStage) -> PipelineStage:
    """Returns a copy of a stage that does not know its outputs, for those of dvc.lock may be of other inputs."""
    found = copy(stage)
    found.deps, found.outs = [copy(dep) for dep in stage.deps], [copy(out) for out in stage.outs]
    for out in found.outs:
        out.hash_info = HashInfo()
    return found


@contextmanager
def _dvc_told(what: str) -> Iterator[None]:
    """Says in a ServerError what DVC or its remote could not do."""
    try:
        yield
    except (DvcException, ServerError, OSError) as error:
        raise ServerError(f"{what}: {' '.join(str(error).split())}") from error
