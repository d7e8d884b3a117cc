"""A dataset's parts (train, validation, test) as `data/transformed/D/` holds them: arrays on disk, tensors in memory.

PART-inputs.npy   (N, *shape) uint8 or float32, memory-mapped when read
PART-targets.npy  (N,) int64 classes, or (N, 1) float32 for regression
info.json         shape, classes, scale, number of samples
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

INFO = "info.json"


@dataclass(frozen=True)
class Info:
    """What there is to know about a transformed dataset."""

    shape: tuple[int, ...]
    classes: tuple[str, ...]
    scale: float
    samples: dict[str, int]  # part → N; only parts that are not empty

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Info:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        return cls(tuple(info["shape"]), tuple(info["classes"]), info["scale"], info["samples"])

    @property
    def held_out(self) -> str:
        """The part that is measured after each epoch: validation where there is one."""
        return "validation" if "validation" in self.samples else "test"


@dataclass(frozen=True)
class Part:
    """One part as whole tensors on one device; batches are cut from them by index, not sample by sample."""

    name: str
    inputs: torch.Tensor  # (N, *shape) uint8 or float32
    targets: torch.Tensor  # (N,) int64 or (N, 1) float32
    scale: float
    memory_format: torch.memory_format

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, index: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (B, *shape) float32, divided by the scale, and targets (B, ...)."""
        import torch

        if isinstance(index, slice):
            inputs, targets = self.inputs[index], self.targets[index]
        else:  # six times as fast as inputs[index]
            inputs, targets = self.inputs.index_select(0, index), self.targets.index_select(0, index)
        if inputs.dtype == torch.uint8:
            inputs = inputs.div(self.scale)
        if self.memory_format is not torch.contiguous_format:
            inputs = inputs.contiguous(memory_format=self.memory_format)
        return inputs, targets

    def to(self, device: torch.device) -> Part:
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))


def load_part(folder: Path, name: str, *, memory_format: str = "contiguous") -> Part:
    """Memory-mapped: pages are read when a batch needs them, and stay the operating system's to drop."""
    import torch

    def tensor(kind: str) -> torch.Tensor:
        # "c", copy on write: torch refuses to warn-lessly share memory that it may not write to
        return torch.from_numpy(np.load(folder / f"{name}-{kind}.npy", mmap_mode="c"))

    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    return Part(name, tensor("inputs"), tensor("targets"), Info.read(folder).scale, formats[memory_format])
