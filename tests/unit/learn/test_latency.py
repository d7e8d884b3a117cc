"""How fast a model is, on models whose time is known."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from learn.latency import BATCH, LEAST, MOST, SECONDS, WARM_UP, measure


class Sleeps(nn.Module):
    """Takes a given time for each sample, and counts its forward passes."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.passes = seconds, 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        time.sleep(self.seconds * len(inputs))
        return inputs


def test_latency_and_throughput_are_those_of_the_model() -> None:
    found = measure(Sleeps(0.002), torch.zeros(BATCH, 3))
    assert 2 <= found.median <= found.p95
    assert found.median < 10, "on a machine with other work, too"
    assert found.throughput <= 1 / 0.002
    assert found.device == f"cpu, {torch.get_num_threads()} thread" + ("s" if torch.get_num_threads() > 1 else "")


def test_a_small_model_is_passed_at_most_500_times_and_no_random_number_is_drawn() -> None:
    before, model = torch.get_rng_state(), Sleeps(0)
    found = measure(model, torch.zeros(BATCH, 3))
    assert 2 * LEAST < model.passes <= 2 * (1 + WARM_UP + MOST)
    assert 0 < found.median < 1000
    assert torch.equal(before, torch.get_rng_state())


def test_a_slow_model_is_passed_a_handful_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Sleeps(0.002)  # 64 ms for a batch
    measure(slow, torch.zeros(BATCH, 3))
    assert slow.passes <= 1 + WARM_UP + SECONDS / 0.002 + 1 + LEAST
    monkeypatch.setattr("learn.latency.LONG", 0.001)
    slower = Sleeps(0.002)
    measure(slower, torch.zeros(BATCH, 3))
    assert slower.passes == 2, "one sample, and one batch"
