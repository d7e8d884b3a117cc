"""The patch embedding: a picture becomes a sequence of vectors.

Source: Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", equation 1.
"""

from __future__ import annotations

import math

import torch
from torch import nn


class PatchEmbedding(nn.Module):
    """Equation 1: z_0 = [x_class; x_p^1 E; x_p^2 E; ...; x_p^N E] + E_pos.

    Cuts pictures (B, C, H, W) into N = H × W / P² patches of P × P pixels, projects each patch of P² × C numbers to D
    numbers (E), puts the class token before them, and adds a learned position embedding: (B, N + 1, D).

    A convolution whose stride is its kernel's size is the same as cutting, flattening and multiplying by E.

    Args:
        input_shape: (C, H, W), with H and W multiples of P.
        patch_size: P, in pixels.
        embedding_size: D.
    """

    def __init__(self, input_shape: tuple[int, ...], patch_size: int, embedding_size: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        patches = (height // patch_size) * (width // patch_size)
        self.projection = nn.Conv2d(channels, embedding_size, kernel_size=patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embedding_size))
        self.position_embedding = nn.Parameter(torch.empty(1, patches + 1, embedding_size).normal_(std=0.02))
        nn.init.trunc_normal_(self.projection.weight, std=math.sqrt(1 / (channels * patch_size**2)))
        assert self.projection.bias is not None
        nn.init.zeros_(self.projection.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes z_0 (B, N + 1, D) from pictures (B, C, H, W)."""
        patches = self.projection(x).flatten(2).transpose(1, 2)  # (B, D, H / P, W / P) → (B, D, N) → (B, N, D)
        class_token = self.class_token.expand(x.shape[0], -1, -1)  # (B, 1, D); torch.export takes len(x) for a constant
        return torch.cat([class_token, patches], dim=1) + self.position_embedding
