"""Decides when to end training before its last epoch, and keeps the best epoch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


class EarlyStopping:
    """Keeps the state_dict of the epoch with the lowest held-out loss, and ends training when the loss stops falling.

    Args:
        model: The model in training.
        patience: Number of epochs without a lower loss after which training ends.
    """

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
        """Call once after each epoch with its held-out loss, a finite number."""
        self._looks += 1
        if loss < self._loss:
            self._loss, self.epoch = loss, self._looks
            self.state_dict = {key: value.detach().cpu().clone() for key, value in self._model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Returns what `load_state` needs to go on from here."""
        return {"loss": self._loss, "looks": self._looks, "epoch": self.epoch, "state_dict": self.state_dict}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` returned."""
        self._loss, self._looks = state["loss"], state["looks"]
        self.epoch, self.state_dict = state["epoch"], state["state_dict"]
