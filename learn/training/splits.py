"""Reads a dataset's splits from the folders of `data/transformed/D/`, and cuts them into batches of tensors.

PART-inputs.npy   (N, *shape) uint8 or float32, memory-mapped when read
PART-targets.npy  (N,) int64 classes, or (N, 1) float32 for regression
info.json         shape, classes, scale, number of samples in each of the folder's splits
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from learn.data.transformed import Info
from learn.errors import only_data

if TYPE_CHECKING:
    import torch

PREFETCHED_BATCHES = 3  # number of batches to prefetch


@dataclass(frozen=True)
class Split:
    """One split as whole tensors on one device; batches are cut from them by index, not sample by sample."""

    name: str
    inputs: torch.Tensor  # (N, *shape) uint8 or float32
    targets: torch.Tensor  # (N,) int64 or (N, 1) float32
    scale: float  # divides inputs that are integers
    memory_format: torch.memory_format

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def device(self) -> torch.device:
        """The device of the batches."""
        return self.inputs.device

    def batches(self, order: Iterable[torch.Tensor | slice]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields stored inputs (B, *shape) and targets (B, ...) for each index.

        Args:
            order: For each batch, the indices (B,) int64 of its samples, or a slice.
        """
        for index in order:
            if isinstance(index, slice):
                yield self.inputs[index], self.targets[index]
            else:  # index_select is six times as fast as inputs[index]
                yield self.inputs.index_select(0, index), self.targets.index_select(0, index)

    def prepare(self, inputs: torch.Tensor) -> torch.Tensor:
        """Turns stored inputs into what a model takes: float32, integers divided by the scale, in the memory format."""
        if not inputs.is_floating_point():
            inputs = inputs.div(self.scale)
        return inputs.contiguous(memory_format=self.memory_format)

    def batch(self, index: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns one prepared batch: inputs (B, *shape) float32 and targets (B, ...)."""
        ((inputs, targets),) = self.batches([index])
        return self.prepare(inputs), targets

    def to(self, device: torch.device) -> Split:
        """Returns a copy on the device."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def only(self, index: np.ndarray) -> Split:
        """Returns the split with some of its samples alone.

        Args:
            index: (n,) int64, their indices.
        """
        return replace(self, inputs=self.inputs[index.tolist()], targets=self.targets[index.tolist()])


@dataclass(frozen=True)
class StreamedSplit(Split):
    """A split whose inputs stay in their file: a thread reads the next batches while the model trains on one.

    The file is memory-mapped, not loaded, and batches are drawn from the whole of it. `inputs` is empty and only names
    the device of the batches; the targets stay on the CPU, where the indices are.
    """

    file: np.ndarray  # (M, *shape), memory-mapped
    rows: np.ndarray | None = None  # (N,) int64: where the split's samples are in the file; None: all, in order

    def batches(self, order: Iterable[torch.Tensor | slice]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields batches as `Split.batches` does; a thread reads the next PREFETCHED_BATCHES from the file."""
        import torch

        def read(index: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
            # A copy, so that the operating system can drop the file's pages.
            where = index if isinstance(index, slice) else index.numpy()
            where = where if self.rows is None else self.rows[where]
            copied = np.array(self.file[where]) if isinstance(where, slice) else self.file.take(where, axis=0)
            batch = torch.from_numpy(copied), self.targets[index]
            return (batch[0].pin_memory(), batch[1].pin_memory()) if self.device.type == "cuda" else batch

        todo, ahead = iter(order), deque[Future[tuple[torch.Tensor, torch.Tensor]]]()
        with ThreadPoolExecutor(1) as reader:
            ahead.extend(reader.submit(read, index) for index in islice(todo, PREFETCHED_BATCHES))
            while ahead:
                inputs, targets = ahead.popleft().result()
                ahead.extend(reader.submit(read, index) for index in islice(todo, 1))
                yield inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)

    def to(self, device: torch.device) -> Split:
        """Returns a copy whose batches go to the device."""
        return replace(self, inputs=self.inputs.to(device))

    def only(self, index: np.ndarray) -> Split:
        """Returns the split with some of its samples alone, as `Split.only` does; their inputs stay in the file."""
        rows = index if self.rows is None else self.rows[index]
        return replace(self, targets=self.targets[index.tolist()], rows=rows)


def load_split(folder: Path, name: str, *, memory_format: str = "contiguous", streamed: bool = False) -> Split:
    """Opens a split as memory-mapped files: pages are read when a batch needs them, and can be dropped again.

    Args:
        folder: `data/transformed/D/training/` or `data/transformed/D/evaluation/`.
        name: `train`, `validation` or `test`.
        memory_format: Of the prepared batches, `contiguous` or `channels_last`.
        streamed: Return a StreamedSplit, which leaves its inputs in the file even after `to(device)`.

    Raises:
        DataError: A file is damaged.
    """
    import torch

    def mapped(kind: str, mode: Any) -> np.ndarray:
        file = folder / f"{name}-{kind}.npy"
        with only_data(file, f"transform@{folder.parent.name}"):
            return np.load(file, mmap_mode=mode)

    # Mode "c" is copy on write: torch would warn about sharing memory that is read-only.
    targets = torch.from_numpy(mapped("targets", "c"))
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    rest = (targets, Info.read(folder).scale, formats[memory_format])
    if not streamed:
        return Split(name, torch.from_numpy(mapped("inputs", "c")), *rest)
    file = mapped("inputs", "r")
    _read_no_neighbours(file)
    return StreamedSplit(name, torch.from_numpy(np.empty((0, *file.shape[1:]), file.dtype)), *rest, file)


def _read_no_neighbours(file: np.ndarray) -> None:
    """Tells the operating system that batches are read in no order. NumPy keeps the map in a private attribute."""
    file._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]


def split_bytes(folder: Path, *names: str) -> int:
    """Returns the size of these splits' inputs as tensors, in bytes."""
    return sum((folder / f"{name}-inputs.npy").stat().st_size for name in names)
