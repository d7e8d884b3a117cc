"""DVC's graph: which stages there are, what each needs, and what is not up to date. No edge is written twice."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import networkx as nx
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import PipelineStage
from tenacity import retry, retry_if_exception_type, wait_fixed

from learn.errors import ParamsError, did_you_mean


class Graph:
    """DVC's stages and what each needs."""

    def __init__(self, root: Path) -> None:
        self.repo = Repo(str(root))
        stages = [stage for stage in self.repo.index.stages if isinstance(stage, PipelineStage)]
        self.stages: dict[str, PipelineStage] = {stage.addressing: stage for stage in stages}
        self._graph = self.repo.index.graph  # an edge leads from a stage to one that it needs

    @retry(retry=retry_if_exception_type(LockError), wait=wait_fixed(1))
    def changed(self) -> set[str]:
        """The stages that are not up to date, as DVC sees them now. Waits for stages that somebody else runs."""
        with self.repo.lock:
            return {name for name, stage in self.stages.items() if stage.changed()}

    def needs(self, name: str) -> list[str]:
        return [stage.addressing for stage in self._graph.successors(self.stages[name])]

    def order(self, targets: Iterable[str] | None) -> list[str]:
        """The stages that the targets need, these first; all of them without targets.

        A target: a stage (train@digits-mlp), a kind of stage (train), an experiment (digits-mlp) or a dataset (digits).
        """
        wanted = set(self.stages) if not targets else set()
        for target in targets or ():
            matching = {name for name in self.stages if target in (name, *name.split("@"))}
            if not matching:
                words = {word for name in self.stages for word in (name, *name.split("@"))}
                raise ParamsError(
                    [
                        f"target {target} is no stage, dataset or experiment{did_you_mean(target, words)}; "
                        "`dvc stage list` shows the stages"
                    ]
                )
            wanted |= matching
        wanted |= {need.addressing for name in wanted for need in nx.descendants(self._graph, self.stages[name])}
        return [
            stage.addressing for stage in reversed(list(nx.topological_sort(self._graph))) if stage.addressing in wanted
        ]
