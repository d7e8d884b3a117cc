"""Requests of several threads are computed together, and each gets its own answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from web.batcher import MOST, Batcher

SECONDS = 30


class Graph:
    """Doubles its inputs; the first batch waits until the test lets it go."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        self.sizes.append(len(inputs))
        self.begun.set()
        assert self.go_on.wait(SECONDS)
        if (inputs < 0).any():
            raise ValueError("a negative number")
        return {"double": 2 * inputs}


def test_one_that_comes_alone_is_computed_in_its_own_thread_at_once() -> None:
    threads = set()

    def graph(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        threads.add(threading.get_ident())
        return {"double": 2 * inputs}

    assert Batcher(graph)(torch.tensor([[3.0]]))["double"].tolist() == [[6.0]]
    assert threads == {threading.get_ident()}


def test_those_that_come_meanwhile_are_computed_together() -> None:
    graph, told = Graph(), list[int]()
    batcher = Batcher(graph, told.append)
    with ThreadPoolExecutor(50) as pool:
        first = pool.submit(batcher, torch.tensor([0.0]))
        assert graph.begun.wait(SECONDS)
        others = [pool.submit(batcher, torch.tensor([float(number), number + 0.5])) for number in range(1, 41)]
        while len(batcher._queue) < len(others):
            threading.Event().wait(0.01)
        graph.go_on.set()
        assert first.result(SECONDS)["double"].tolist() == [0.0]
        for number, other in enumerate(others, 1):
            assert other.result(SECONDS)["double"].tolist() == [2.0 * number, 2.0 * number + 1]
    assert graph.sizes == told == [1, MOST, MOST, 80 - 2 * MOST]


def test_an_error_reaches_who_asked_and_the_next_are_answered() -> None:
    graph = Graph()
    graph.go_on.set()
    batcher = Batcher(graph)
    with pytest.raises(ValueError, match="a negative number"):
        batcher(torch.tensor([-1.0]))
    assert batcher(torch.tensor([1.0]))["double"].tolist() == [2.0]
