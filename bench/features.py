"""(k) A frozen EfficientNet-Lite0: an epoch with features that are kept against one that computes them again."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from bench.common import in_turns, median, median_ratio, mirror, show
from learn.models.blocks.backbone import Backbone
from learn.training.build import build_loss, build_model, build_optimizer
from learn.training.device import use_device
from learn.training.loop import Epoch, FitOptions, fit
from learn.training.splits import Split
from learn.training.state import State

TIMES = 3
FILE = "weights/tf_efficientnet_lite0.safetensors"
MODEL = {
    "architecture": "tf_efficientnet_lite0",
    "weights": {"file": Path(FILE).name, "sha256": "384371db"},
    "dropout": 0.2,
}
CLASSES = ("pizza", "steak", "sushi")
SIZE, TRAIN, TEST, EPOCHS = 224, 225, 75, 3  # as pizza, steak, sushi


def main() -> None:
    folder = mirror()
    if not folder or not (folder / FILE).is_file():
        return
    use_device("cpu", 1)
    histories: dict[bool, list[Epoch]] = {}

    def epoch(kept: bool) -> float:
        """The median seconds of the epochs after the first, in which kept features are computed."""
        histories[kept] = trained(folder / FILE, kept)
        return median([epoch.seconds for epoch in histories[kept][1:]])

    recomputed, kept = in_turns(TIMES, partial(epoch, False), partial(epoch, True))
    pairs = zip(histories[False], histories[True], strict=True)
    apart = max(abs(one.metrics[key] - other.metrics[key]) for one, other in pairs for key in one.metrics)
    show(
        f"(k) an epoch of a frozen EfficientNet-Lite0, {TRAIN} + {TEST} images of {SIZE}×{SIZE}, one thread",
        ["computed each epoch", "kept", "faster", "first epoch, kept", "largest difference of a metric"],
        [[
            f"{median(recomputed):.2f} s",
            f"{1000 * median(kept):.1f} ms",
            f"{median_ratio(recomputed, kept):.0f}×",
            f"{histories[True][0].seconds:.2f} s",
            f"{apart:.1e}",
        ]],
    )  # fmt: skip


def trained(weights: Path, kept: bool) -> list[Epoch]:
    torch.manual_seed(42)
    model = build_model("timm", MODEL, (3, SIZE, SIZE), len(CLASSES))
    assert isinstance(model, Backbone)
    model.load_pretrained(weights)
    model.has_constant_features = kept
    model = model.to(memory_format=torch.channels_last)
    state = State(model, build_optimizer("Adam", {"lr": 0.01}, model))
    parts = split("train", TRAIN), split("test", TEST)
    torch.manual_seed(42)
    return list(fit(state, *parts, build_loss("CrossEntropyLoss", {}, CLASSES), FitOptions(EPOCHS, 32)))


def split(name: str, samples: int) -> Split:
    generator = torch.Generator().manual_seed(samples)
    images = torch.randint(0, 256, (samples, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return Split(name, images, torch.arange(samples) % len(CLASSES), 255.0, torch.channels_last)


if __name__ == "__main__":
    main()
