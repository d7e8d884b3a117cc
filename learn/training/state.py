"""The state of a training, which can be saved and restored."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from learn.training.early_stopping import EarlyStopping


@dataclass
class State:
    """Everything that training changes; restored with `load_state_dict`, training goes on with the same bits."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: Any | None = None
    epoch: int = 0  # number of epochs done
    early_stopping: EarlyStopping | None = None
    scaler: torch.amp.GradScaler | None = None  # of the loss, in fp16

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the model, optimizer, scheduler, early stopping and torch's random generators."""
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "early_stopping": self.early_stopping.state() if self.early_stopping else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, torch's random generators included."""
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.early_stopping:
            self.early_stopping.load_state(state["early_stopping"])
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])


def as_file(state_dict: dict[str, torch.Tensor]) -> bytes:
    """Returns the content of a file with a state_dict, the same on each device.

    `torch.save` into a file itself would not raise an OSError if the disk is full.
    """
    buffer = io.BytesIO()
    torch.save({key: value.cpu().contiguous() for key, value in state_dict.items()}, buffer)
    return buffer.getvalue()
