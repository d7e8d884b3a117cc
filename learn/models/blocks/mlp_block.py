"""The MLP block: two linear layers with a GELU between them, on each vector of a sequence.

Source: Dosovitskiy et al. 2020, equation 3.
"""

from __future__ import annotations

import torch
from torch import nn

from learn.models.blocks.self_attention import EPSILON


class MLPBlock(nn.Module):
    """The second half of a layer, without the residual connection: MLP(LN(z)) of equation 3.

    Args:
        embedding_size: D.
        mlp_size: Number of units between the two layers.
        dropout: Fraction of each layer's outputs that is dropped in training.
    """

    def __init__(self, embedding_size: int, mlp_size: int, dropout: float) -> None:
        super().__init__()
        first, second = nn.Linear(embedding_size, mlp_size), nn.Linear(mlp_size, embedding_size)
        for layer in (first, second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)
        self.norm = nn.LayerNorm(embedding_size, eps=EPSILON)
        self.layers = nn.Sequential(first, nn.GELU(), nn.Dropout(dropout), second, nn.Dropout(dropout))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Computes MLP(LN(z)), (B, S, D), from z (B, S, D)."""
        return self.layers(self.norm(z))
