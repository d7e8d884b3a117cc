"""The Vision Transformer: a picture's patches are a sequence that an encoder reads (learnpytorch.io, chapter 8).

Source: Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929. Its ViT-B/16 is

    {name: vit, patch_size: 16, embedding_size: 768, heads: 12, layers: 12, mlp_size: 3072, dropout: 0.1}

The pieces are in learn/models/blocks/: patch_embedding.py (equation 1), self_attention.py (2), mlp_block.py (3) and
encoder.py, which puts the last two together. The weights start as in the paper's code.
"""

from __future__ import annotations

import torch
from torch import nn

from learn.models.blocks.encoder import EncoderLayer
from learn.models.blocks.patch_embedding import PatchEmbedding
from learn.models.blocks.self_attention import EPSILON


class ViT(nn.Module):
    """Maps pictures (B, C, H, W) to logits (B, output_size).

    Args:
        input_shape: (C, H, W), with H and W multiples of patch_size.
        output_size: Number of logits.
        patch_size: Width and height of a patch in pixels (P in the paper).
        embedding_size: Number of values that describe a patch (D), a multiple of heads.
        heads: Number of heads of each self-attention (k).
        layers: Number of encoder layers (L).
        mlp_size: Number of hidden units of each MLP.
        dropout: Fraction that is dropped in training, of the outputs of each linear layer but qkv, and of z_0.
        attention_dropout: Fraction of the attention weights that is dropped in training.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        *,
        patch_size: int,
        embedding_size: int,
        heads: int,
        layers: int,
        mlp_size: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"embedding_size": embedding_size, "heads": heads, "layers": layers, "mlp_size": mlp_size}
        _check(input_shape, sizes | {"patch_size": patch_size})
        self.embedding = PatchEmbedding(input_shape, patch_size, embedding_size)
        self.dropout = nn.Dropout(dropout)
        layer = (embedding_size, heads, mlp_size, dropout, attention_dropout)
        self.encoder = nn.Sequential(*(EncoderLayer(*layer) for _ in range(layers)))
        self.norm = nn.LayerNorm(embedding_size, eps=EPSILON)
        self.classifier = nn.Linear(embedding_size, output_size)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits (B, output_size) from pictures (B, C, H, W).

        Equation 4: y = LN(z_L^0), the class token after the last layer, from which a linear layer makes the logits.
        """
        z = self.encoder(self.dropout(self.embedding(x)))  # (B, N + 1, D)
        return self.classifier(self.norm(z[:, 0]))


def _check(input_shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Raises ValueError if the sizes do not fit the pictures or each other."""
    for key, value in sizes.items():
        if value < 1:
            raise ValueError(f"{key} is {value}; it must be >= 1")
    patch, embedding, heads = sizes["patch_size"], sizes["embedding_size"], sizes["heads"]
    if len(input_shape) != 3 or any(pixels % patch for pixels in input_shape[1:]):
        raise ValueError(
            f"with patch_size {patch} it takes images (channels, height, width) whose height and width are multiples "
            f"of {patch}; the inputs are {input_shape}"
        )
    if embedding % heads:
        raise ValueError(f"embedding_size is {embedding}; it must be a multiple of heads, {heads}")
