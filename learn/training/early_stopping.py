"""When to end training before its last epoch, and which epoch was the best."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


class EarlyStopping:
    """The state_dict of the best epoch by its held-out loss; training is over after `patience` epochs without one."""

    def __init__(self, model: nn.Module, patience: int) -> None:
        self._model, self._patience = model, patience
        self._loss, self._looks = math.inf, 0
        self.epoch = 0
        self.state_dict: dict[str, torch.Tensor] = {}

    @property
    def is_over(self) -> bool:
        """Whether training should stop."""
        return self._looks - self.epoch >= self._patience

    def look(self, loss: float) -> None:
        """To be called after each epoch with its held-out loss, a finite number."""
        self._looks += 1
        if loss < self._loss:
            self._loss, self.epoch = loss, self._looks
            self.state_dict = {key: value.detach().cpu().clone() for key, value in self._model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        return {"loss": self._loss, "looks": self._looks, "epoch": self.epoch, "state_dict": self.state_dict}

    def load_state(self, state: dict[str, Any]) -> None:
        self._loss, self._looks = state["loss"], state["looks"]
        self.epoch, self.state_dict = state["epoch"], state["state_dict"]
