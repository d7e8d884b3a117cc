"""What a stage needs of a node of a Ray cluster, from `flow.resources` in params.yaml."""

from __future__ import annotations

from typing import Any

from tasks.params import Params
from tasks.params.flow import bytes_of


def resources(params: Params, stage: str) -> dict[str, Any]:
    """Returns Ray's options for a stage, from `flow.resources`: of its kind, then of its name, then of itself."""
    kind, _, name = stage.partition("@")
    said: dict[str, Any] = {"cpus": params.threads}
    for key in (kind, name, stage):
        if entry := params.flow.resources.get(key):
            said |= entry.model_dump(exclude_unset=True)
    options: dict[str, Any] = {"num_cpus": said["cpus"], "num_gpus": said.get("gpus", 0)}
    if memory := said.get("memory"):
        options["memory"] = bytes_of(memory)
    if accelerator := said.get("accelerator"):
        options["accelerator_type"] = accelerator
    return options


def why_waiting(stage: str, options: dict[str, Any], nodes: list[dict[str, float]]) -> str:
    """Returns a line that says what a stage waits for.

    Args:
        stage: Name of the stage.
        options: Ray's options for it.
        nodes: What each node has in all, by Ray's names.
    """
    asked = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], "memory": options.get("memory", 0)}
    if kind := options.get("accelerator_type"):
        asked[f"accelerator_type:{kind}"] = 0.001
    text = ", ".join(f"{amount:g} {name}" for name, amount in asked.items() if amount)
    if any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
        return f"{stage} waits for a node with room for it: {text}"
    return f"{stage} waits, for no node of the cluster has {text}; it starts when such a node joins (flow.resources)"
