"""Eager against torch.compile and bf16: epochs of training and passes of inference, the first and later ones."""

from __future__ import annotations

import time
from typing import Any

import torch

from bench.common import median, own_process, show
from learn.errors import DeviceError
from learn.training.build import build_loss, build_model, build_optimizer
from learn.training.defaults import Precision
from learn.training.device import use_device
from learn.training.evaluate import evaluate_split
from learn.training.loop import FitOptions, fit
from learn.training.precision import check_machine, compile_model
from learn.training.splits import Split
from learn.training.state import State

SAMPLES, BATCH, SHAPE, LATER = 6_400, 128, (1, 28, 28), 4
VIT = {"patch_size": 4, "embedding_size": 32, "heads": 4, "layers": 3, "mlp_size": 64}
MODELS: dict[str, dict[str, Any]] = {"tiny_vgg": {"hidden_units": 10}, "vit": VIT}
WAYS: list[tuple[str, Precision, bool]] = [
    ("eager", "fp32", False),
    ("compiled", "fp32", True),
    ("eager, bf16", "bf16", False),
]


def main() -> None:
    rows, device = [], ""
    for name in MODELS:
        for title, precision, compiled in WAYS:
            with own_process() as process:  # what one has compiled is not the other's
                device, *seconds = process.submit(measured, name, precision, compiled).result()
            rows.append([name, title, *(f"{each:.2f} s" if isinstance(each, float) else each for each in seconds)])
    columns = ["model", "way", "training: first epoch", "later", "inference: first pass", "later"]
    note = (
        f"{SAMPLES:,} pictures of 28×28, batches of {BATCH}; later: the median of {LATER}; bf16 is for training alone"
    )
    show(f"Eager and compiled, on {device}", columns, rows, note)


def measured(name: str, precision: Precision, compiled: bool) -> tuple[Any, ...]:
    """The device; the seconds of the first epoch and of a later one, and of the first pass of inference and a later."""
    torch._inductor.config.force_disable_caches = True  # what an earlier run has compiled does not count
    device = use_device("auto", threads=2)
    try:
        check_machine(name, device, precision, compiled=compiled)
    except DeviceError:
        return (device.type, *["not here"] * 4)
    torch.manual_seed(42)
    inputs, targets = torch.randint(0, 256, (SAMPLES, *SHAPE), dtype=torch.uint8), torch.randint(0, 10, (SAMPLES,))
    part = Split("train", inputs, targets, 255.0, torch.contiguous_format).to(device)
    model = build_model(name, MODELS[name], SHAPE, 10).to(device)
    criterion = build_loss("CrossEntropyLoss", {}, tuple("0123456789")).to(device)
    if compiled:
        compile_model(model)
    start, passes = time.perf_counter(), []
    for _ in range(1 + LATER):  # inference first: fit() measures after each epoch, and would compile it
        evaluate_split(model, part, criterion, BATCH)
        passes.append(time.perf_counter() - start)
        start = time.perf_counter()
    state = State(model, build_optimizer("AdamW", {"lr": 0.001}, model))
    options = FitOptions(1 + LATER, BATCH, precision=precision)
    held_out = Split("test", part.inputs[:BATCH], part.targets[:BATCH], 255.0, torch.contiguous_format)
    epochs = [epoch.seconds for epoch in fit(state, part, held_out, criterion, options)]
    return device.type, epochs[0], median(epochs[1:]), passes[0], median(passes[1:])
