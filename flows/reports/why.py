"""Says in words why a stage is stale, or that it is up to date, and what would make it run again."""

from __future__ import annotations

from collections.abc import Iterable

from dvc.dependency import ParamsDependency
from dvc.stage import PipelineStage

from flows.changes import Change, changes, kind_of, made_by
from flows.graph import Graph
from tasks.params import PARAMS_FILE

SHOWN = 3  # largest number of changes that are named for a stage before the one that was asked about


def why(graph: Graph, target: str) -> str:
    """Returns the answer for each stage that a target means.

    Args:
        graph: DVC's stages.
        target: A stage (train@digits-mlp), a kind of stage, an experiment or a dataset.

    Raises:
        ParamsError: It is none of these.
    """
    names, made = graph.matching(target), made_by(graph.stages)
    needed = graph.order(names)
    found = graph.look(lambda stage: changes(stage, made), needed)
    stale = {name: own for name, own in found.items() if own}
    return "\n\n".join(_of_stage(graph, name, stale, made) for name in needed if name in names)


def _of_stage(graph: Graph, name: str, stale: dict[str, list[Change]], made: frozenset[str]) -> str:
    own, before = stale.get(name, []), [each for each in graph.before(name) if each in stale]
    if own:
        lines = [f"{name} is stale:", *(f"  {change}" for change in own)]
    elif before:
        lines = [f"{name} itself is up to date, and runs again if stages before it write something else"]
    else:
        lines = [f"{name} is up to date"]
    if before:
        lines.append("stages before it are stale:")
        lines += [f"  {each}: {_briefly(stale[each])}" for each in before]
    return "\n".join([*lines, "it runs again for a change of", *_reads(graph.stages[name], made)])


def _briefly(found: list[Change]) -> str:
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(map(str, found[:SHOWN])) + more


def _reads(stage: PipelineStage, made: frozenset[str]) -> Iterable[str]:
    """Yields a line for each kind of thing that a stage depends on."""
    kinds: dict[str, list[str]] = {f"parameters in {PARAMS_FILE}": [], "data": [], "code": []}
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            kinds[f"parameters in {PARAMS_FILE}"] += dep.params
        else:
            kinds[kind_of(dep, made)].append(dep.def_path)
    return (f"  {kind}: {', '.join(names)}" for kind, names in kinds.items() if names)
