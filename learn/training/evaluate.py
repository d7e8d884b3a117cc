"""Measures a model on a split, and refuses numbers that are not finite with their likely cause."""

from __future__ import annotations

import math

import torch
from torch import nn

from learn.errors import NotFiniteError
from learn.training.criterion import Criterion
from learn.training.meter import EpochMeter
from learn.training.ranks import ALONE, Ranks
from learn.training.splits import Split


def evaluate_split(
    model: nn.Module, part: Split, criterion: Criterion, batch_size: int | None, ranks: Ranks = ALONE
) -> tuple[dict[str, float], torch.Tensor]:
    """Measures the model on a split. Does not advance any random generator.

    Args:
        model: On the split's device.
        part: The split.
        criterion: The loss, on the same device.
        batch_size: Number of samples in a batch; None for all samples at once.
        ranks: The processes that measure together, each its share of every batch.

    Returns:
        Metrics, named as `test/loss`, and the logits (N, output_size) on the CPU; of several processes, those of this
        one's samples.

    Raises:
        NotFiniteError: The loss or a logit is NaN or infinite; the text names the likely cause.
    """
    model.eval()
    meter = EpochMeter(criterion, ranks)
    size, done = batch_size or len(part), 0
    shares = [ranks.share(slice(start, start + size), len(part)) for start in range(0, len(part), size)]
    batches = part.batches(share for share, samples in shares if samples)
    outputs = torch.empty(0)
    with torch.inference_mode():
        for _, samples in shares:
            if not samples:
                meter.add_nothing()
                continue
            inputs, targets = next(batches)
            logits = model(part.prepare(inputs))
            meter.add(criterion(logits, targets), logits, targets)
            if not done:
                outputs = logits.new_empty((sum(samples for _, samples in shares), *logits.shape[1:]))
            outputs[done : done + len(logits)] = logits
            done += len(logits)
    metrics = meter.metrics(part.name)
    if not (math.isfinite(metrics[f"{part.name}/loss"]) and outputs.isfinite().all()):
        raise NotFiniteError(_why_not_finite(model, part, criterion, metrics[f"{part.name}/loss"], size))
    return metrics, outputs.cpu()


def _why_not_finite(model: nn.Module, part: Split, criterion: Criterion, loss: float, size: int) -> str:
    if math.isfinite(loss):
        what = f"logits of the {part.name} part are not finite"
    else:
        what = f"the {part.name} loss is {loss}"
    if not_finite := [name for name, weights in model.named_parameters() if not weights.isfinite().all()]:
        return f"{what}: the weights {not_finite[0]} are not finite; {TOO_LARGE}"
    order = [slice(start, start + size) for start in range(0, len(part), size)]
    for number, (inputs, targets) in enumerate(part.batches(order), start=1):
        if not inputs.isfinite().all():
            return f"{what}: the inputs of batch {number} are not finite; look at the dataset's raw files"
        if criterion.divisor(targets) == 0:
            return f"{what}: batch {number}: {NO_WEIGHT}"
    return f"{what}; {TOO_LARGE}"


NO_WEIGHT = "all of its targets have weight 0; give loss.weight numbers above 0, or take a larger batch_size"
TOO_LARGE = "likely a learning rate (optimizer.lr) that is too large: try a tenth of it, or clip_grad_norm: 1.0"


def refuse_not_finite_weights(model: nn.Module) -> None:
    """Raises NotFiniteError if a parameter holds NaN or infinity, even one that the loss does not depend on."""
    for name, weights in model.named_parameters():
        if not weights.isfinite().all():
            raise NotFiniteError(f"after the last step the weights {name} are not finite; {TOO_LARGE}")
