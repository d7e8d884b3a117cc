"""Computes a frozen backbone's features once: they are the same in each epoch."""

from __future__ import annotations

import torch

from learn.models.blocks.backbone import Backbone
from learn.training.splits import Split


def with_features(model: Backbone, part: Split, batch_size: int | None) -> Split:
    """Returns a split in memory whose inputs are the features (N, units) of the given split's images.

    Does not advance any random generator. The model is in evaluation mode afterwards.

    Args:
        model: A model with constant features, on the split's device.
        part: The split with images.
        batch_size: Number of samples in a batch; None for all samples at once.
    """
    model.eval()
    size = batch_size or len(part)
    with torch.no_grad():
        order = (slice(start, start + size) for start in range(0, len(part), size))
        features = torch.cat([model.features(part.prepare(inputs)) for inputs, _ in part.batches(order)])
    return Split(part.name, features, part.targets.to(part.device), 1.0, torch.contiguous_format)
