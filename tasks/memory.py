"""Decides whether inputs fit into memory."""

from __future__ import annotations

import math
import resource
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def is_streamed(memory: str, size: float, device: torch.device) -> bool:
    """Returns whether inputs are read from their file batch by batch.

    With `auto` they are if they would take more than half of the device's free memory.

    Args:
        memory: The setting in params.yaml: `auto`, `resident` or `streamed`.
        size: Size of the inputs, in bytes.
        device: The device that would hold them.
    """
    if memory != "auto":
        return memory == "streamed"
    import psutil
    import torch

    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return size > min(free, _allowed()) / 2


def _allowed() -> float:
    """Returns the limit of this process's memory in bytes that a container or `ulimit` sets; infinity without one."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text().strip()).isdecimal():
        limits.append(int(text))
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=math.inf)
