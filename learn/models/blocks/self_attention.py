"""The multi-head self-attention block: each vector of a sequence looks at all of them.

Sources: Dosovitskiy et al. 2020, equation 2 and appendix A; Vaswani et al. 2017, "Attention Is All You Need".
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

EPSILON = 1e-6  # of the layer norms, as in the paper's code


class SelfAttentionBlock(nn.Module):
    """The first half of a layer, without the residual connection: MSA(LN(z)) of equation 2.

    For each of k heads of D_h = D / k numbers (appendix A, equations 5 to 8):

        [q, k, v] = z U_qkv                      (S, 3 × D_h)
        A = softmax(q kᵀ / √D_h)                 (S, S): how much each vector looks at each other one
        SA(z) = A v                              (S, D_h)
        MSA(z) = [SA_1(z); ...; SA_k(z)] U_msa   (S, D)

    Args:
        embedding_size: D, a multiple of the number of heads.
        heads: k.
        attention_dropout: Fraction of A that is dropped in training.
    """

    def __init__(self, embedding_size: int, heads: int, attention_dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.norm = nn.LayerNorm(embedding_size, eps=EPSILON)
        self.qkv = nn.Linear(embedding_size, 3 * embedding_size)
        self.output = nn.Linear(embedding_size, embedding_size)
        for layer in (self.qkv, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Computes MSA(LN(z)), (B, S, D), from z (B, S, D)."""
        qkv = self.qkv(self.norm(z)).unflatten(2, (3, self.heads, -1))  # (B, S, 3 × D) → (B, S, 3, k, D_h)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, k, S, D_h)
        dropout = self.attention_dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)  # A v of each head
        return self.output(attended.transpose(1, 2).flatten(2))  # (B, S, k, D_h) → (B, S, D)
