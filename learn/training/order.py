"""In which order the samples come: that of the course's `DataLoader(shuffle=True)`, number for number."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def shuffled(samples: int, batch_size: int | None, device: torch.device) -> Iterator[torch.Tensor | slice]:
    """Indices of each batch, drawn as `DataLoader(shuffle=True, batch_size=...)` draws them.

    A DataLoader takes one number from the global generator for its workers, its RandomSampler one to seed a generator
    of its own, and the DataLoader of the test loop, after the last training batch, one more for its workers. The first
    and the last are drawn around this.
    """
    if batch_size is None:
        yield slice(None)
        return
    generator = torch.Generator()
    generator.manual_seed(draw())
    yield from torch.randperm(samples, generator=generator).to(device).split(batch_size)


def draw() -> int:
    """The next number of torch's global generator, as a DataLoader takes it for a seed."""
    return int(torch.empty((), dtype=torch.int64).random_().item())
