"""Training in 16 bits, and with a compiled model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from learn.errors import DeviceError
from learn.training.build import build_loss
from learn.training.defaults import Precision
from learn.training.loop import Epoch, FitOptions, fit
from learn.training.precision import check_machine, compile_model, forward, new_scaler
from learn.training.splits import Split
from learn.training.state import State

CPU = torch.device("cpu")
TARGETS = torch.tensor([0, 1, 2] * 4)
INPUTS = torch.nn.functional.one_hot(TARGETS, 3).float() + 0.1 * torch.arange(12).view(12, 1).sin()
TRAIN = Split("train", INPUTS, TARGETS, 1.0, torch.contiguous_format)


def new_state(precision: Precision) -> State:
    torch.manual_seed(42)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    return State(model, torch.optim.SGD(model.parameters(), lr=0.5), scaler=new_scaler(CPU, precision))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These tensors are too small to be worth waking a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(state: State, precision: Precision, clip_grad_norm: float | None = None) -> list[Epoch]:
    torch.manual_seed(7)
    criterion = build_loss("CrossEntropyLoss", {}, ("a", "b", "c"))
    return list(fit(state, TRAIN, TRAIN, criterion, FitOptions(10, 4, None, clip_grad_norm, precision=precision)))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("clip_grad_norm", [None, 0.5])
def test_16_bits_learn_what_32_learn(precision: Precision, clip_grad_norm: float | None) -> None:
    """fp16's scaler multiplies the loss by 65,536: its gradients must not be clipped or used as they are."""
    exact, rough = new_state("fp32"), new_state(precision)
    expected, found = trained(exact, "fp32", clip_grad_norm), trained(rough, precision, clip_grad_norm)
    assert found[-1].metrics["train/loss"] == pytest.approx(expected[-1].metrics["train/loss"], rel=0.02)
    assert found[-1].metrics != expected[-1].metrics
    assert {parameter.dtype for parameter in rough.model.parameters()} == {torch.float32}


def test_the_model_s_outputs_have_32_bits_and_come_from_16() -> None:
    model = new_state("bf16").model
    exact, rough = forward(model, INPUTS, "fp32"), forward(model, INPUTS, "bf16")
    assert rough.dtype == torch.float32
    assert torch.equal(exact, model(INPUTS))
    assert torch.equal(rough, rough.bfloat16().float())
    assert not torch.equal(rough, exact)


def test_the_scale_of_the_loss_belongs_to_the_state() -> None:
    state = new_state("fp16")
    trained(state, "fp16")
    assert state.scaler
    again = new_state("fp16")
    again.load_state_dict(state.state_dict())
    assert again.scaler
    assert again.scaler.state_dict() == state.scaler.state_dict()
    assert again.scaler.state_dict()["_growth_tracker"] == 30


def test_what_the_machine_lacks_is_refused() -> None:
    with pytest.raises(DeviceError, match=r"experiments.a.precision is fp16; meta has fp32 on this machine"):
        check_machine("experiments.a", torch.device("meta"), "fp16", compiled=False)
    code = """import torch; from learn.training.precision import check_machine
for compiled in (False, True):
    check_machine("experiments.a", torch.device("cpu"), "fp32", compiled=compiled)
    print("may be compiled:", compiled)
"""
    # A process of its own: some releases of torch look for the compiler only once.
    environment = {name: value for name, value in os.environ.items() if name != "CXX"} | {"PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "may be compiled: False\n"
    assert "DeviceError: experiments.a.compile is true, but there is no C++ compiler" in done.stderr


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_gives_the_same_and_keeps_its_names() -> None:
    eager, compiled = new_state("fp32").model.eval(), new_state("fp32").model.eval()
    names = list(compiled.state_dict())
    compile_model(compiled)
    with torch.inference_mode():
        assert torch.allclose(eager(INPUTS), compiled(INPUTS), atol=1e-6)
    assert list(compiled.state_dict()) == names
