"""Starts the processes of a training on several devices with torchrun, and says which of them this one is."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, NoReturn

from learn.errors import DeviceError
from tasks.lifeline import BY_DVC
from tasks.workspace.environment import LIFELINE, WARM

if TYPE_CHECKING:
    import torch

    from learn.training.ranks import Ranks

Devices = int | Literal["auto"]


def is_rank() -> bool:
    """Returns whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first() -> bool:
    """Returns whether this process writes and speaks for all: the first of torchrun's, or the only one."""
    return not is_rank() or os.environ["RANK"] == "0"


def leave_message(text: str) -> None:
    """Leaves an error's message for the process that started this one, which prints the first of all."""
    about = {"message": text, "timestamp": int(time.time())}  # as torchrun reads it
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(about), encoding="utf-8")


def process_count(key: str, devices: Devices, device: torch.device) -> int:
    """Returns the number of processes that a training has, one for each device.

    Args:
        key: The key in params.yaml, for messages.
        devices: What it says; `auto` means all GPUs of this machine, or the CPU.
        device: The device of params.yaml, of which each process takes one.

    Raises:
        DeviceError: This machine does not have so many.
    """
    import torch

    there = torch.cuda.device_count() if device.type == "cuda" else 1
    if devices == "auto":
        return there if device.index is None else 1
    if devices > 1 and device.type != "cpu" and (device.index is not None or devices > there):
        raise DeviceError(
            f"{key} is {devices}, and the device is {device}; this machine has {there} of type {device.type}: set "
            f"devices to {there} or less, and device to auto, {device.type} or cpu"
        )
    return devices


def run_ranks(stage: str, name: str, processes: int) -> NoReturn:
    """Runs a stage in several processes, and ends this one with their exit code. They end with it, however it ends.

    The first process speaks for all. If another one is the first to fail, its errors are printed.

    Args:
        stage: The stage's module, such as `tasks.train`.
        name: The experiment.
        processes: How many.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # torch tells of failures and signals at length
    theirs, _ours = os.pipe()
    os.dup2(theirs, 0)  # closes when this process ends, and the others see it (tasks/lifeline.py)
    for variable in (BY_DVC, WARM):
        os.environ.pop(variable, None)
    loopback = "lo" if sys.platform == "linux" else "lo0"
    os.environ |= {LIFELINE: "stdin", "GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    with TemporaryDirectory(prefix="trackway-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=name,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(logs, redirects=dict.fromkeys(range(1, processes), Std.ALL)),
        )
        try:
            elastic_launch(config, sys.executable)("-m", stage, name)
        except SignalException as error:
            sys.exit(128 + error.sigval)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            (said,) = Path(logs).glob(f"*/attempt_0/{rank}/stderr.log") if rank else (None,)
            if failure.exitcode < 0:
                why = f"error: {stage} {name}: process {rank + 1} of {processes} was ended by {failure.signal_name()}"
            elif Path(failure.error_file).is_file():
                why = failure.message
            else:
                why = said.read_text(errors="replace").rstrip() if said else ""
            print(why, file=sys.stderr)
            sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)
    sys.exit(0)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Joins the processes that torchrun started with this one; yields which one it is. Alone, it is the only one."""
    from learn.training.ranks import ALONE, Ranks

    if not is_rank():
        yield ALONE
        return
    from torch import cuda, distributed

    if device.type == "cuda":
        cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    ranks = Ranks(distributed.get_rank(), distributed.get_world_size())
    yield ranks
    distributed.destroy_process_group()
