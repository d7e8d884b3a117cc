"""Trains in fewer bits than 32 (autocast), or with a compiled model (torch.compile), where the machine can do it."""

from __future__ import annotations

import torch
from torch import nn

from learn.errors import DeviceError
from learn.training.defaults import Precision

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def forward(model: nn.Module, inputs: torch.Tensor, precision: Precision) -> torch.Tensor:
    """Computes a model's outputs in a precision; in float32 if it is not `fp32`, so that the loss is as exact as ever.

    Args:
        model: The model, whose weights stay float32.
        inputs: (B, *shape).
        precision: `fp32` leaves the model alone; with the others matrix products and convolutions have 16 bits.
    """
    if precision == "fp32":
        return model(inputs)
    with torch.autocast(inputs.device.type, TYPES[precision]):
        return model(inputs).float()


def check_machine(experiment: str, device: torch.device, precision: Precision, *, compiled: bool) -> None:
    """Checks that the machine can train an experiment as it is to be trained.

    Args:
        experiment: Its key in params.yaml, for messages.
        device: Where it is trained.
        precision: The precision.
        compiled: Whether torch.compile is used, which needs a C++ compiler.

    Raises:
        DeviceError: The device does not compute in this precision, or there is no compiler.
    """
    has = ["fp32", *(name for name in TYPES if _has(device, name))]
    if precision not in has:
        raise DeviceError(f"{experiment}.precision is {precision}; {device.type} has {', '.join(has)} on this machine")
    if compiled and not _finds_compiler():
        raise DeviceError(f"{experiment}.compile is true, but there is no C++ compiler: install g++, or take it out")


def _has(device: torch.device, name: str) -> bool:
    """Returns whether a device computes in a 16-bit type itself, and not by converting each number."""
    if device.type == "cpu":
        supported = torch.ops.mkldnn
        return supported._is_mkldnn_bf16_supported() if name == "bf16" else supported._is_mkldnn_fp16_supported()
    if device.type == "cuda" and name == "bf16":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps" and name == "bf16":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    return device.type in ("cuda", "mps")


def new_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler | None:
    """Returns what scales a loss in fp16, so that small gradients do not become 0; None for other precisions."""
    return torch.amp.GradScaler(device.type) if precision == "fp16" else None


def _finds_compiler() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


def compile_model(model: nn.Module) -> None:
    """Has the model compiled at its first batch, in this process; its class and the keys of its state_dict stay."""
    model.compile(options={"compile_threads": 1})
