"""Measures how long a model takes for one sample, and how many samples a second it predicts in batches.

torch.utils.benchmark is not used: its import takes 0.7 s, and it times blocks of forward passes, whose means do not say
how long the slowest single ones take.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

BATCH = 32  # samples in a batch for the throughput
SECONDS = 0.04  # for each of the two measurements, beyond their warm-up
LONG = 1.0  # seconds: a forward pass that takes longer needs no warm-up and is measured once
WARM_UP, LEAST, MOST = 3, 5, 500  # forward passes


@dataclass(frozen=True)
class Latency:
    """How fast a model is on a device."""

    median: float  # milliseconds for one sample
    p95: float  # milliseconds; 95 of 100 samples take no longer
    throughput: float  # samples per second, in batches of BATCH
    device: str  # such as `cpu, 1 thread`


def measure(model: Callable[[torch.Tensor], object], batch: torch.Tensor) -> Latency:
    """Measures a model. Does not advance any random generator.

    Of a small model that takes about 0.1 s; of a large one, at most six forward passes of each kind are done.

    Args:
        model: A module on the device of the batch, in evaluation mode; or another function of batches.
        batch: (BATCH, *shape); the first sample is the one whose latency is measured.
    """
    one = batch[:1]
    with torch.inference_mode():
        single, batched = (_times(partial(model, inputs), batch.device) for inputs in (one, batch))
    median, p95 = np.quantile(single, [0.5, 0.95])
    throughput = len(batch) / float(np.median(batched))
    return Latency(1000 * float(median), 1000 * float(p95), throughput, _name(batch.device))


def _times(forward: Callable[[], object], device: torch.device) -> list[float]:
    """Returns the seconds that forward passes take, one by one.

    Args:
        forward: Does one forward pass.
        device: Where it computes.
    """
    first = _time(forward, device)
    if first > LONG:
        return [first]
    for _ in range(WARM_UP if first < SECONDS else 0):
        forward()
    found: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(found) < LEAST or (len(found) < MOST and time.perf_counter() < end):
        found.append(_time(forward, device))
    return found


def _time(forward: Callable[[], object], device: torch.device) -> float:
    _wait_for(device)
    start = time.perf_counter()
    forward()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    """Waits until the device has done what was started on it; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' if threads > 1 else ''}" if device.type == "cpu" else device.type
