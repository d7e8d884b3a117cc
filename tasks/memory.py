"""Whether inputs fit into memory."""

from __future__ import annotations

import math
import resource
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def is_streamed(memory: str, size: int, device: torch.device) -> bool:
    """Whether inputs of so many bytes are read from their file batch by batch; with memory auto where they would take
    more than half of what the device has free."""
    if memory != "auto":
        return memory == "streamed"
    import psutil
    import torch

    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return size > min(free, _allowed()) / 2


def _allowed() -> float:
    """Bytes that this process may have, where a container or `ulimit` sets a limit."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text().strip()).isdecimal():
        limits.append(int(text))
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=math.inf)
