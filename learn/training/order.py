"""Shuffles samples into exactly the order of the course's `DataLoader(shuffle=True)`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch


def shuffled(
    samples: int, batch_size: int | None, device: torch.device, drawn: Callable[[], int] | None = None
) -> Iterator[torch.Tensor | slice]:
    """Yields the indices of each batch, drawn as `DataLoader(shuffle=True, batch_size=...)` draws them.

    In the course's loop three numbers of the global generator are drawn per epoch: the training DataLoader draws one
    for its workers, its RandomSampler one to seed a generator of its own, and after the last training batch the test
    DataLoader draws one for its workers. This function draws the second; its caller must draw the first and the third.

    Args:
        samples: Number of samples.
        batch_size: Number of samples in a batch; None yields one slice of all samples, and draws nothing.
        device: The device for the indices.
        drawn: Draws in place of `draw`.
    """
    if batch_size is None:
        yield slice(None)
        return
    generator = torch.Generator()
    generator.manual_seed((drawn or draw)())
    yield from torch.randperm(samples, generator=generator).to(device).split(batch_size)


def draw() -> int:
    """Draws a seed from torch's global generator as a DataLoader does."""
    return int(torch.empty((), dtype=torch.int64).random_().item())
