"""(a) This project's loop against the course's: a DataLoader that decodes and converts sample by sample, batch 32."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from bench.common import in_turns, median, median_ratio, mirror, show
from learn.build import build_loss, build_model, build_optimizer
from learn.datasets import FashionMNIST
from learn.loop import State, fit
from learn.parts import Part

TIMES = 3
V1 = {"hidden_units": [10], "activation": "ReLU", "output_activation": "ReLU"}
MODELS = [
    ("V0", "mlp", {"hidden_units": [10], "activation": None}, "contiguous", 3),
    ("V1", "mlp", V1, "contiguous", 3),
    ("V2", "tiny_vgg", {"hidden_units": 10}, "contiguous", 1),
    ("V2, channels_last (as in the catalog)", "tiny_vgg", {"hidden_units": 10}, "channels_last", 1),
]


def main() -> None:
    files = mirror()
    if not files:
        return
    torch.set_num_threads(1)
    source = FashionMNIST("fashion_mnist")
    inputs, targets = source.read(files / source.folder)
    with tempfile.TemporaryDirectory() as folder:
        train_set, test_set = _torchvision(files, Path(folder))
        rows = []
        for title, name, arguments, memory_format, epochs in MODELS:
            losses: dict[str, float] = {}

            def ours(
                name=name, arguments=arguments, memory_format=memory_format, epochs=epochs, losses=losses
            ) -> float:
                format_ = getattr(torch, {"contiguous": "contiguous_format"}.get(memory_format, memory_format))
                parts = [
                    Part(part, torch.from_numpy(inputs[at]), torch.from_numpy(targets[at]), 255.0, format_)
                    for part, at in (("train", np.s_[:60_000]), ("test", np.s_[60_000:]))
                ]
                model = _model(name, arguments).to(memory_format=format_)
                state = State(model, build_optimizer("SGD", {"lr": 0.1}, model))
                objective = build_loss("CrossEntropyLoss", {}, source.classes)
                torch.manual_seed(42)
                start = time.perf_counter()
                *_, last = fit(state, *parts, objective, epochs=epochs, batch_size=32)
                losses["ours"] = last.metrics["test/loss_batch_mean"]
                return time.perf_counter() - start

            def course(name=name, arguments=arguments, epochs=epochs, losses=losses) -> float:
                start = time.perf_counter()
                losses["course"] = _course(_model(name, arguments), train_set, test_set, epochs)
                return time.perf_counter() - start

            a, b = in_turns(TIMES, course, ours)
            rows.append([
                title,
                str(epochs),
                f"{median(a):.2f} s",
                f"{median(b):.2f} s",
                f"{median_ratio(a, b):.2f}×",
                f"{losses['course']:.5f}",
                f"{losses['ours']:.5f}",
            ])  # fmt: skip
    show(
        f"(a) Fashion-MNIST, training and test loop, one thread, medians of {TIMES} in turns",
        ["model", "epochs", "course", "Trackway", "faster", "test loss, course", "Trackway"],
        rows,
        "channels_last changes the order of additions, so its digits differ; its accuracy does not (tests/golden)",
    )


def _model(name: str, arguments: dict) -> nn.Module:
    torch.manual_seed(42)
    return build_model(name, arguments, (1, 28, 28), 10)


def _torchvision(files: Path, folder: Path):
    """torchvision's datasets with ToTensor, as the course makes them."""
    from torchvision import datasets
    from torchvision.transforms import ToTensor

    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (files / "FashionMNIST").glob("*.gz"):
        with gzip.open(packed) as stream, (raw / packed.stem).open("wb") as unpacked:
            shutil.copyfileobj(stream, unpacked)
    return (datasets.FashionMNIST(folder, train=train, transform=ToTensor()) for train in (True, False))


def _course(model: nn.Module, train_set, test_set, epochs: int) -> float:
    """The loop of chapter 3; the last test loss, a mean over batches."""
    train, test = DataLoader(train_set, 32, shuffle=True), DataLoader(test_set, 32, shuffle=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(42)
    return [course_epoch(model, optimizer, train, test) for _ in range(epochs)][-1]


def course_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, train: DataLoader, test: DataLoader) -> float:
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
