"""The shares of a batch, and how their losses add up to the batch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from learn.errors import DeviceError
from learn.training.criterion import Criterion
from learn.training.meter import EpochMeter
from learn.training.ranks import ALONE, Ranks, share_loss
from tasks.torchrun import process_count

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("samples", [1, 2, 7, 64])
def test_each_sample_of_a_batch_counts_in_one_process(size: int, samples: int) -> None:
    index, counted, sliced = torch.randperm(100)[:samples], [], []
    for rank in range(size):
        share, count = Ranks(rank, size).share(index, 100)
        assert isinstance(share, torch.Tensor)
        assert len(share) == max(count, 1)
        counted += share[:count].tolist()
        part, same = Ranks(rank, size).share(slice(90, 90 + samples), 100)
        assert isinstance(part, slice)
        sliced += list(range(100))[part][:same]
    assert counted == index.tolist()
    assert sliced == list(range(90, min(90 + samples, 100)))
    assert ALONE.share(slice(None), 100) == (slice(0, 100), 100)


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0])), nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")],
)
def test_the_mean_of_weighted_shares_is_the_batch_s_loss(loss: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    criterion = Criterion(loss, ("a", "b"))
    logits, targets = torch.randn(7, 2), torch.tensor([0, 1, 1, 0, 1, 0, 1])
    total = torch.as_tensor(criterion.divisor(targets), dtype=torch.float32)
    monkeypatch.setattr(Ranks, "sum", lambda self, values: total)
    found = []
    for rank in range(3):
        share, count = Ranks(rank, 3).share(torch.arange(7), 7)
        weight = Ranks(rank, 3).weight(criterion, targets[share], counts=count > 0)
        assert weight is not None
        found.append(criterion(logits[share], targets[share]) * weight)
    torch.testing.assert_close(torch.stack(found).mean(), criterion(logits, targets))
    assert ALONE.weight(criterion, targets, counts=True) is None
    assert Ranks(0, 3).weight(criterion, targets[:1], counts=False) == 0


def test_a_share_without_weight_takes_part_with_loss_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its targets are all of a class that does not count; others of the batch are not."""
    criterion = Criterion(nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0])), ("a", "b"))
    logits, targets = torch.randn(4, 2, requires_grad=True), torch.tensor([0, 0, 1, 0])
    whole = {"loss": torch.ones(()), "epoch": torch.tensor([[1.5], [2.0], [4.0], [1.0]])}
    monkeypatch.setattr(Ranks, "sum", lambda self, values: whole["loss" if values.ndim == 0 else "epoch"])
    ranks, meter = Ranks(0, 2), EpochMeter(criterion, Ranks(0, 2))
    weight = ranks.weight(criterion, targets[:2], counts=True)
    loss = share_loss(criterion, logits[:2], targets[:2], weight)
    loss.backward()
    assert weight is not None
    assert loss.item() == weight.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
    meter.add(criterion(logits[:2], targets[:2]).detach(), logits[:2], targets[:2])
    assert meter.metrics("test") == {"test/loss": 1.5, "test/accuracy": 0.5}
    whole["loss"] = torch.zeros(())
    weight = ranks.weight(criterion, targets[:2], counts=True)
    assert share_loss(criterion, logits[:2], targets[:2], weight).isnan(), "the whole batch has no weight"


def test_there_must_be_as_many_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    key = "experiments.a.devices"
    assert process_count(key, 3, CPU) == 3
    assert process_count(key, "auto", CPU) == 1
    assert process_count(key, 2, CUDA) == process_count(key, "auto", CUDA) == 2
    assert process_count(key, "auto", torch.device("cuda", 1)) == 1
    for devices, device in ((3, CUDA), (2, torch.device("cuda", 0)), (2, torch.device("mps"))):
        with pytest.raises(
            DeviceError, match=rf"experiments.a.devices is {devices}, and the device is {device}; this machine"
        ):
            process_count(key, devices, device)
