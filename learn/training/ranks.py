"""Several processes that train one model: each computes a share of every batch (DistributedDataParallel).

torchrun starts the processes, its ranks. They draw the same batches, and the average of their gradients is the
gradient of the whole batch, so that the losses are those of one process up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from learn.training.criterion import Criterion
from learn.training.order import draw


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: Its number, counted from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    def reseed(self) -> None:
        """Gives each process but the first random numbers of its own, for dropout and augmentation."""
        if self.rank:
            torch.manual_seed(torch.initial_seed() + self.rank)

    def draw(self) -> int:
        """Draws a seed as `draw` does; all processes get that of the first."""
        seed = torch.tensor(draw())
        if self.size > 1:
            seed = seed.to(_device())
            distributed.broadcast(seed, 0)
        return int(seed)

    def share(self, index: torch.Tensor | slice, samples: int) -> tuple[torch.Tensor | slice, int]:
        """Returns this process's share of a batch, and how many of its samples count.

        A process for which there is no sample gets one that does not count, since all must take the step.

        Args:
            index: The batch's samples: indices (B,) int64, or a slice.
            samples: Number of samples in the split.
        """
        start, stop = index.indices(samples)[:2] if isinstance(index, slice) else (0, len(index))
        first, end = (start + (stop - start) * rank // self.size for rank in (self.rank, self.rank + 1))
        share = slice(first, max(end, first + 1))
        return (share if isinstance(index, slice) else index[share]), end - first

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the sum of all processes' values; every process must call it."""
        if self.size == 1:
            return values
        total = values.to(_device())
        distributed.all_reduce(total)
        return total.to(values.device)

    def with_common_statistics(self, model: nn.Module) -> nn.Module:
        """Returns a model whose BatchNorm layers have the statistics of whole batches; on GPUs only, as torch can."""
        if self.size == 1 or distributed.get_backend() != "nccl":
            return model
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def copy_statistics(self, network: nn.Module) -> None:
        """Gives a network the first process's buffers, such as BatchNorm's statistics: all measure its model."""
        if self.size > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)

    def weight(self, criterion: Criterion, targets: torch.Tensor, *, counts: bool) -> torch.Tensor | None:
        """Returns by what the loss of a share is multiplied, so that averaged gradients are those of the whole batch.

        Args:
            criterion: The loss.
            targets: Those of the share, (b, ...).
            counts: Whether the share's samples are the batch's.

        Returns:
            A scalar; None if there is one process. Every process must call it.
        """
        if self.size == 1:
            return None
        if criterion.is_sum:
            return torch.tensor(float(self.size * counts), device=targets.device)
        mine = torch.as_tensor(criterion.divisor(targets), dtype=torch.float32, device=targets.device) * counts
        return mine * self.size / self.sum(mine)

    def wrapped(self, network: nn.Module, before: nn.Module | None) -> nn.Module:
        """Returns a network whose gradients become the average of all processes' in each backward pass.

        Args:
            network: The network; if there is one process, it is returned as it is.
            before: What this method returned in the epoch before, which is used again if nothing has changed.
        """
        if self.size == 1:
            return network
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if isinstance(before, Averaged) and before.module is network and len(before.trained) == len(trained):
            return before
        return Averaged(network, trained)


def share_loss(
    criterion: Criterion, output: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor | None
) -> torch.Tensor:
    """Returns the loss of a share; 0 if none of its targets has a weight, and others of the batch have.

    Args:
        criterion: The loss.
        output: (b, output_size).
        targets: (b, ...).
        weight: What `Ranks.weight` returned.
    """
    if weight is None:
        return criterion(output, targets)
    may_be_none = isinstance(criterion.divisor(targets), torch.Tensor)  # otherwise a GPU is not waited for
    return output.sum() * 0 if may_be_none and weight == 0 else criterion(output, targets)


class Averaged(DistributedDataParallel):
    """A network with averaged gradients, which knows the parameters that were trained when it was made."""

    def __init__(self, network: nn.Module, trained: list[nn.Parameter]) -> None:
        super().__init__(network)
        self.trained = trained


ALONE = Ranks()


def _device() -> torch.device:
    """Returns where the processes exchange tensors: on their GPUs, or on the CPU."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
