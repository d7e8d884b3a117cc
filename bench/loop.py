"""(a) This project's loop against the course's: a DataLoader that decodes and converts sample by sample, batch 32."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from bench.common import in_turns, median, median_ratio, mirror, own_process, show
from learn.data.datasets.fashion_mnist import FashionMNIST
from learn.training.build import build_loss, build_model, build_optimizer
from learn.training.device import use_device
from learn.training.loop import FitOptions, fit
from learn.training.splits import Split
from learn.training.state import State

TIMES = 3
SOURCE = FashionMNIST("fashion_mnist")
V1 = {"hidden_units": [10], "activation": "ReLU", "output_activation": "ReLU"}
MODELS = [
    ("V0", "mlp", {"hidden_units": [10], "activation": None}, "contiguous", 3),
    ("V1", "mlp", V1, "contiguous", 3),
    ("V2", "tiny_vgg", {"hidden_units": 10}, "contiguous", 1),
    ("V2, channels_last (as in the catalog)", "tiny_vgg", {"hidden_units": 10}, "channels_last", 1),
]


def main() -> None:
    if not mirror():
        return
    rows = []
    # A process for each, as a training has one: what one sets (threads, memory) is not the other's.
    with own_process() as course, own_process() as ours:
        for title, name, arguments, memory_format, epochs in MODELS:
            losses: dict[str, float] = {}

            def timed(
                process: Executor,
                loop: Callable[..., tuple[float, float]],
                *call: object,
                losses: dict[str, float] = losses,
            ) -> float:
                seconds, losses[loop.__name__] = process.submit(loop, *call).result()
                return seconds

            a, b = in_turns(
                TIMES,
                partial(timed, course, course_loop, name, arguments, epochs),
                partial(timed, ours, our_loop, name, arguments, epochs, memory_format),
            )
            rows.append([
                title,
                str(epochs),
                f"{median(a):.2f} s",
                f"{median(b):.2f} s",
                f"{median_ratio(a, b):.2f}×",
                f"{losses['course_loop']:.5f}",
                f"{losses['our_loop']:.5f}",
            ])  # fmt: skip
    show(
        f"(a) Fashion-MNIST, training and test loop, one thread, medians of {TIMES} in turns",
        ["model", "epochs", "course", "Trackway", "faster", "test loss, course", "Trackway"],
        rows,
        "channels_last changes the order of additions, so its digits differ; its accuracy does not (tests/golden)",
    )


def our_loop(name: str, arguments: dict[str, Any], epochs: int, memory_format: str) -> tuple[float, float]:
    """Seconds, and the last test loss, a mean over batches."""
    use_device("cpu", 1)
    inputs, targets = _arrays()
    format_ = getattr(torch, {"contiguous": "contiguous_format"}.get(memory_format, memory_format))
    train, test = (
        Split(part, torch.from_numpy(inputs[at]), torch.from_numpy(targets[at]), 255.0, format_)
        for part, at in (("train", np.s_[:60_000]), ("test", np.s_[60_000:]))
    )
    model = _model(name, arguments).to(memory_format=format_)
    state = State(model, build_optimizer("SGD", {"lr": 0.1}, model))
    criterion = build_loss("CrossEntropyLoss", {}, SOURCE.classes)
    torch.manual_seed(42)
    start = time.perf_counter()
    *_, last = fit(state, train, test, criterion, FitOptions(epochs=epochs, batch_size=32))
    return time.perf_counter() - start, last.metrics["test/loss_batch_mean"]


def course_loop(name: str, arguments: dict[str, Any], epochs: int) -> tuple[float, float]:
    """The loop of chapter 3: seconds, and the last test loss, a mean over batches."""
    torch.set_num_threads(1)
    model, (train_set, test_set) = _model(name, arguments), _torchvision()
    start = time.perf_counter()
    train, test = DataLoader(train_set, 32, shuffle=True), DataLoader(test_set, 32, shuffle=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(42)
    loss = [course_epoch(model, optimizer, train, test) for _ in range(epochs)][-1]
    return time.perf_counter() - start, loss


def _model(name: str, arguments: dict[str, Any]) -> nn.Module:
    torch.manual_seed(42)
    return build_model(name, arguments, (1, 28, 28), 10)


@cache
def _arrays() -> tuple[np.ndarray, np.ndarray]:
    files = mirror()
    assert files
    return SOURCE.read(files / SOURCE.folder)


@cache
def _torchvision() -> list[Dataset[Any]]:
    """torchvision's datasets with ToTensor, as the course makes them."""
    from torchvision import datasets
    from torchvision.transforms import ToTensor

    files = mirror()
    assert files
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for packed in (files / "FashionMNIST").glob("*.gz"):
            with gzip.open(packed) as stream, (raw / packed.stem).open("wb") as unpacked:
                shutil.copyfileobj(stream, unpacked)
        return [datasets.FashionMNIST(folder, train=train, transform=ToTensor()) for train in (True, False)]


def course_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, train: DataLoader[Any], test: DataLoader[Any]
) -> float:
    """Trains and tests once, as the course does; the test loss, a mean over batches."""
    loss_fn = nn.CrossEntropyLoss()
    model.train()
    train_loss = 0.0
    for x, y in train:
        loss = loss_fn(model(x), y)
        train_loss += loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    test_loss = accuracy = 0.0
    with torch.inference_mode():
        for x, y in test:
            logits = model(x)
            test_loss += loss_fn(logits, y).item()
            accuracy += (logits.argmax(1) == y).float().mean().item()
    return test_loss / len(test)


if __name__ == "__main__":
    main()
