"""Computes together what several threads ask a model for at the same time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

Graph = Callable[[torch.Tensor], dict[str, torch.Tensor]]
MOST = 32  # samples in a batch, if no single request has more


@dataclass(eq=False)
class Asked:
    """One request that waits for its answer."""

    inputs: torch.Tensor
    answer: dict[str, torch.Tensor] = field(default_factory=dict)
    error: BaseException | None = None
    done: bool = False


class Batcher:
    """Calls a graph as one thread would, from many.

    A thread that comes while nothing is computed computes at once. Those that come meanwhile wait, and the first of
    them computes for all that wait. So nothing is added when the model is idle, and batches grow with the load.

    Args:
        graph: Maps inputs (N, *shape) to a dict of tensors with N rows.
        tell: Called with the number of samples in each batch.
    """

    def __init__(self, graph: Graph, tell: Callable[[int], object] = lambda samples: None) -> None:
        self._graph, self._tell = graph, tell
        self._queue: deque[Asked] = deque()
        self._turn = threading.Condition()
        self._is_busy = False

    def __call__(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Computes the rows of these inputs (N, *shape); raises what the graph raises."""
        mine = Asked(inputs)
        with self._turn:
            self._queue.append(mine)
        while batch := self._batch(mine):
            self._compute(batch)
            with self._turn:
                self._is_busy = False
                self._turn.notify_all()
        if mine.error:
            raise mine.error
        return mine.answer

    def _batch(self, mine: Asked) -> list[Asked]:
        """Waits until a request is answered, and returns [], or until this thread is to compute the returned batch."""
        with self._turn:
            self._turn.wait_for(lambda: mine.done or not self._is_busy)
            if mine.done:
                return []
            self._is_busy = True
            batch = [self._queue.popleft()]
            samples = len(batch[0].inputs)
            while self._queue and samples + len(self._queue[0].inputs) <= MOST:
                batch.append(self._queue.popleft())
                samples += len(batch[-1].inputs)
            return batch

    def _compute(self, batch: list[Asked]) -> None:
        try:
            inputs = [asked.inputs for asked in batch]
            found = self._graph(inputs[0] if len(inputs) == 1 else torch.cat(inputs))
            sizes = [len(each) for each in inputs]
            self._tell(sum(sizes))
            rows = {name: tensor.split(sizes) for name, tensor in found.items()}
            for number, asked in enumerate(batch):
                asked.answer = {name: parts[number] for name, parts in rows.items()}
        except BaseException as error:
            for asked in batch:
                asked.error = error
        for asked in batch:
            asked.done = True
