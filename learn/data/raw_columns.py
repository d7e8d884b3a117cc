"""A table's raw columns → features, inside a model: what the transform stage does, from what it learned.

to_features = RawColumns(FittedColumns.read(Path("data/transformed/wine/training")))
logits = model(to_features(raw))
"""

from __future__ import annotations

import math

import torch
from torch import nn

from learn.data.transformed import FittedColumns


class RawColumns(nn.Module):
    """Maps raw columns (B, columns) float32 to the features (B, features) float32 that a model was trained on.

    A raw number is the table's own, a raw category is its index among the column's categories. NaN stands for a missing
    number or category. It equals what scikit-learn's fitted transformers give to 1e-6.

    Args:
        fitted: What the transform stage learned from the train split.
    """

    number: torch.Tensor  # (numbers,) int64, places of the columns
    fill: torch.Tensor  # (numbers,) float64
    mean: torch.Tensor
    scale: torch.Tensor
    category: torch.Tensor  # (features of categories,) int64, the place of each feature's column
    index: torch.Tensor  # (features of categories,) float32, the category that each feature is for

    def __init__(self, fitted: FittedColumns) -> None:
        super().__init__()
        numbers = [(place, each) for place, each in enumerate(fitted.columns) if each.categories is None]
        one_hot = [(place, i) for place, each in enumerate(fitted.columns) for i in range(len(each.categories or ()))]
        fills = [math.nan if each.fill is None else each.fill for _, each in numbers]
        self.register_buffer("number", torch.tensor([place for place, _ in numbers], dtype=torch.int64))
        self.register_buffer("fill", torch.tensor(fills, dtype=torch.float64))
        self.register_buffer("mean", torch.tensor([each.mean for _, each in numbers], dtype=torch.float64))
        self.register_buffer("scale", torch.tensor([each.scale for _, each in numbers], dtype=torch.float64))
        self.register_buffer("category", torch.tensor([place for place, _ in one_hot], dtype=torch.int64))
        self.register_buffer("index", torch.tensor([i for _, i in one_hot], dtype=torch.float32))

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """Computes features (B, features) from raw columns (B, columns)."""
        numbers = raw.index_select(1, self.number).double()  # float64, as scikit-learn computes
        numbers = torch.where(numbers.isnan(), self.fill, numbers)
        one_hot = raw.index_select(1, self.category) == self.index
        return torch.cat([((numbers - self.mean) / self.scale).float(), one_hot.float()], dim=1)
