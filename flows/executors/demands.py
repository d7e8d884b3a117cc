"""What a stage needs of a node of a Ray cluster, from `flow.resources` in params.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.params import Params

UNITS = {"MiB": 2**20, "GiB": 2**30}
ACCELERATOR = "accelerator_type:"  # with the kind of GPU behind it, one of the resources of Ray's nodes


def resources(params: Params, stage: str) -> dict[str, Any]:
    """Returns Ray's options for a stage, from `flow.resources`: of its kind, then of its name, then of itself."""
    kind, _, name = stage.partition("@")
    said: dict[str, Any] = {}
    for key in (kind, name, stage):
        if entry := params.flow.resources.get(key):
            said |= entry.model_dump(exclude_unset=True)
    devices = params.experiments[name].devices if kind == "train" else 1  # each is a process with so many threads
    processes = max(1, int(said.get("gpus", 0))) if devices == "auto" else devices
    said = {"cpus": params.threads * processes} | said
    options: dict[str, Any] = {"num_cpus": said["cpus"], "num_gpus": said.get("gpus", 0)}
    if memory := said.get("memory"):
        options["memory"] = int(memory[:-3]) * UNITS[memory[-3:]]
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
        asked[f"{ACCELERATOR}{kind}"] = 0.001
    text = shown(asked)
    if not any(node.get("CPU") for node in nodes):
        return f"{stage} waits, for the cluster has no node for stages; add one: ray start --address HEAD:6379"
    if any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
        return f"{stage} waits for a node with room for it, or for its start there: {text}"
    return f"{stage} waits, for no node of the cluster has {text}; it starts when such a node joins (flow.resources)"


def shown(amounts: Mapping[str, float]) -> str:
    """Returns amounts of Ray's resources as people write them, such as `1 CPU, 0.5 GPU, 8 GiB, A100`."""
    texts = {name: f"{amount:g} {name}" for name, amount in amounts.items() if amount and not name.startswith("node:")}
    if "memory" in texts:
        texts["memory"] = f"{amounts['memory'] / UNITS['GiB']:g} GiB"
    return ", ".join(name.removeprefix(ACCELERATOR) if ACCELERATOR in name else text for name, text in texts.items())
