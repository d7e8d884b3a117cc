"""One layer of the Transformer encoder: a self-attention block and an MLP block, each with a residual connection.

Source: Dosovitskiy et al. 2020, equations 2 and 3.
"""

from __future__ import annotations

import torch
from torch import nn

from learn.models.blocks.mlp_block import MLPBlock
from learn.models.blocks.self_attention import SelfAttentionBlock


class EncoderLayer(nn.Module):
    """Maps z_(l-1) (B, S, D) to z_l (B, S, D).

        z'_l = MSA(LN(z_(l-1))) + z_(l-1)   equation 2
        z_l  = MLP(LN(z'_l)) + z'_l         equation 3

    Args:
        embedding_size: D, a multiple of the number of heads.
        heads: Number of heads of the self-attention.
        mlp_size: Number of units between the MLP's two layers.
        dropout: Fraction of each linear layer's outputs that is dropped in training.
        attention_dropout: Fraction of the attention weights that is dropped in training.
    """

    def __init__(
        self, embedding_size: int, heads: int, mlp_size: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.attention = SelfAttentionBlock(embedding_size, heads, attention_dropout)
        self.dropout = nn.Dropout(dropout)
        self.mlp = MLPBlock(embedding_size, mlp_size, dropout)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Computes z_l (B, S, D) from z_(l-1) (B, S, D)."""
        z = self.dropout(self.attention(z)) + z
        return self.mlp(z) + z
