"""Chooses the device that a stage computes on, and sets it to give the same bits at every run."""

from __future__ import annotations

import ctypes
import os
import platform

import torch

from learn.errors import DeviceError


def use_device(name: str, threads: int) -> torch.device:
    """Returns a device, after setting torch to give the same bits at every run on it.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        threads: Number of CPU threads of torch.

    Raises:
        DeviceError: This machine has no such device; the text lists those that it has.
    """
    torch.set_num_threads(threads)
    available = ["cpu"]
    if torch.cuda.is_available():
        available += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        available.append("mps")
    if name == "auto":
        name = available[1] if len(available) > 1 else "cpu"
    if name not in available:
        raise DeviceError(
            f"device is {name}; this machine has {', '.join(available)}: write device: {available[-1]} in params.yaml, "
            "or device: auto for the fastest that is there"
        )
    if name == "cpu":
        _keep_freed_memory()
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return torch.device(name)


def _keep_freed_memory() -> None:
    """Lets glibc's malloc keep up to 1 GiB of freed memory instead of returning it to the kernel.

    Every batch frees the same megabytes and allocates them again. If the kernel has to clear them each time, that takes
    a fifth of a step of TinyVGG.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(-1, 2**30)  # M_TRIM_THRESHOLD: free bytes that the heap's end may have
    mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: larger blocks are returned at once; 32 MiB is the most that malloc allows
