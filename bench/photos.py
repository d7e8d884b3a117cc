"""(f) Photos: an epoch, augmentation, the transform stage, and a set that is streamed from its file."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from bench.common import in_turns, median, median_ratio, mirror, own_process, show
from bench.loop import course_epoch
from learn.data.datasets import DATASETS
from learn.data.photos.archives import gather
from learn.data.transformed import Info
from learn.training.augment import Augmentation
from learn.training.build import build_loss, build_model, build_optimizer
from learn.training.device import use_device
from learn.training.loop import FitOptions, fit
from learn.training.splits import load_split
from learn.training.state import State
from tasks.params import ChampionConfig, DatasetConfig, SplitConfig, TransformConfig
from tasks.photos import transform_photos

TIMES = 5
SOURCE = DATASETS["pizza_steak_sushi"]("pizza_steak_sushi")
SIZE, BATCH = 64, 32
TRIVIAL = ("TrivialAugmentWide", {"num_magnitude_bins": 31})
STREAMED_BYTES = 4 * 10**9
CORES = os.cpu_count() or 1


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    if files := mirror():
        with tempfile.TemporaryDirectory() as folder:
            rows += _photos(files, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        rows += _streamed(Path(folder))
    show(
        f"(f) photos, {CORES} cores, medians of {TIMES} in turns (streamed: 3)",
        ["what", "the usual way", "Trackway", "ratio"],
        rows,
    )


def _photos(files: Path, folder: Path) -> list[list[str]]:
    raw, made = folder / "data/raw/food", folder / "transformed"
    raw.mkdir(parents=True)
    made.mkdir()
    gather(files / "pizza_steak_sushi.zip", raw)
    dataset = DatasetConfig(
        source=SOURCE,
        split=SplitConfig(test="official", shuffle=False, seed=42),
        transform=TransformConfig(resize=SIZE, mode="RGB", broken="stop"),
        champion=ChampionConfig(metric="accuracy"),
    )
    parts = {"train": np.arange(225), "test": np.arange(225, 300)}
    here = Path.cwd()
    os.chdir(folder)
    try:
        transform_rows = _transform(dataset, parts, raw, made)
    finally:
        os.chdir(here)
    (made / "info.json").write_text(Info((3, SIZE, SIZE), SOURCE.classes, 255.0, {"train": 225, "test": 75}).to_json())
    return [_epoch(raw, made), _augment(raw, made), *transform_rows]


def _epoch(raw: Path, made: Path) -> list[str]:
    """TinyVGG as in the catalog (channels_last): training and test, one epoch; both may use all cores."""
    what = "an epoch of TinyVGG on food: ImageFolder + DataLoader, decoding"
    with own_process() as course, own_process() as ours:
        return _row(
            what,
            *in_turns(
                TIMES,
                lambda: course.submit(course_way, raw).result(),
                lambda: ours.submit(our_way, made).result(),
            ),
        )


def course_way(raw: Path) -> float:
    torch.set_num_threads(CORES)
    to_tensor = transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.ToTensor()])
    loaders = [
        DataLoader(
            ImageFolder(str(raw / part), to_tensor),
            BATCH,
            shuffle=part == "train",
            num_workers=CORES,
            multiprocessing_context="fork",  # as in a script; a spawned process would spawn, which imports torch anew
        )
        for part in ("train", "test")
    ]
    state = _new_state(torch.contiguous_format)
    start = time.perf_counter()
    course_epoch(state.model, state.optimizer, *loaders)
    return time.perf_counter() - start


def our_way(made: Path) -> float:
    use_device("cpu", CORES)
    state, criterion = _new_state(torch.channels_last), build_loss("CrossEntropyLoss", {}, SOURCE.classes)
    train, test = (load_split(made, part, memory_format="channels_last") for part in ("train", "test"))
    start = time.perf_counter()
    list(fit(state, train, test, criterion, FitOptions(epochs=1, batch_size=BATCH)))
    return time.perf_counter() - start


def _new_state(memory_format: torch.memory_format) -> State:
    torch.manual_seed(42)
    model = build_model("tiny_vgg", {"hidden_units": 10}, (3, SIZE, SIZE), 3)
    model = model.to(memory_format=memory_format)
    return State(model, build_optimizer("Adam", {"lr": 0.001}, model))


def _augment(raw: Path, made: Path) -> list[str]:
    """TrivialAugmentWide alone, on all training photos; the usual way has its photos decoded and resized already."""
    train = load_split(made, "train")
    trivial = v2.TrivialAugmentWide(num_magnitude_bins=31)

    class PerSample(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(train)

        def __getitem__(self, index: int) -> torch.Tensor:
            return trivial(train.inputs[index]).div(255)

    augment = Augmentation([TRIVIAL], 3, 255.0)

    def usual() -> float:
        start = time.perf_counter()
        for _ in DataLoader(PerSample(), BATCH, shuffle=True, num_workers=CORES):
            pass
        return time.perf_counter() - start

    def ours() -> float:
        start = time.perf_counter()
        for inputs, targets in train.batches(torch.randperm(len(train)).split(BATCH)):
            augment(inputs, targets, 0)
        return time.perf_counter() - start

    return _row("TrivialAugmentWide of 225 photos: in a DataLoader, sample by sample", *in_turns(TIMES, usual, ours))


def _transform(dataset: DatasetConfig, parts: dict[str, np.ndarray], raw: Path, made: Path) -> list[list[str]]:
    """Decoding and resizing all photos; ours also checks and hashes them."""
    assert dataset.transform.resize

    def plain() -> float:
        start = time.perf_counter()
        images = []
        for path in sorted(raw.rglob("*.jpg")):
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
        np.save(made / "plain.npy", np.stack(images))
        return time.perf_counter() - start

    def ours() -> float:
        start = time.perf_counter()
        transform_photos("food", dataset, parts, dict.fromkeys(parts, made))
        return time.perf_counter() - start

    rows = []
    ours()  # the first has imports in it
    for cores in range(1, min(CORES, 2) + 1):
        with _cores(cores):
            a, b = in_turns(TIMES, plain, ours)
        what = f"transform, photos a second, {cores} core{'s' if cores > 1 else ''}: a plain loop"
        rows.append([what, f"{300 / median(a):.0f}/s", f"{300 / median(b):.0f}/s", f"{median_ratio(a, b):.2f}×"])
    return rows


@contextmanager
def _cores(number: int) -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


STREAM = """
import sys, threading, time
from pathlib import Path
import numpy as np, torch
from learn.training.build import build_loss, build_model, build_optimizer
from learn.training.device import use_device
from learn.training.loop import FitOptions, fit
from learn.training.state import State
from learn.training.splits import Split, load_split

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024

use_device("cpu", 1)
folder, memory = Path(sys.argv[1]), sys.argv[2]
model = build_model("mlp", {"hidden_units": [10], "activation": "ReLU"}, (3, 64, 64), 3)
state = State(model, build_optimizer("SGD", {"lr": 0.01}, model))
criterion = build_loss("CrossEntropyLoss", {}, ("a", "b", "c"))
before = most = anonymous()
part = load_split(folder, "train", streamed=memory == "streamed")
test = Split("test", part.inputs.new_zeros((32, 3, 64, 64)), torch.zeros(32).long(), 255.0, part.memory_format)
if memory == "resident":
    inputs = torch.from_numpy(np.load(folder / "train-inputs.npy"))
    part = Split("train", inputs, part.targets, 255.0, part.memory_format)

def watch():
    global most
    while True:
        most = max(most, anonymous())
        time.sleep(0.05)

threading.Thread(target=watch, daemon=True).start()
(epoch,) = fit(state, part, test, criterion, FitOptions(epochs=1, batch_size=32))
print(epoch.seconds, most - before)
"""


def _streamed(folder: Path) -> list[list[str]]:
    """An epoch over 4 GB with the fastest of models, so that reading shows; each in a process of its own."""
    rows = STREAMED_BYTES // (3 * SIZE * SIZE)
    inputs = np.lib.format.open_memmap(folder / "train-inputs.npy", "w+", np.uint8, (rows, 3, SIZE, SIZE))
    rng = np.random.default_rng(0)
    for start in range(0, rows, 4096):
        block = inputs[start : start + 4096]
        block[:] = rng.integers(0, 255, block.shape, dtype=np.uint8)
    inputs.flush()
    del inputs
    np.save(folder / "train-targets.npy", np.arange(rows) % 3)
    (folder / "info.json").write_text(Info((3, SIZE, SIZE), ("a", "b", "c"), 255.0, {"train": rows}).to_json())
    memory: dict[str, list[float]] = {"resident": [], "streamed": []}

    def epoch(kind: str) -> float:
        done = subprocess.run(
            [sys.executable, "-c", STREAM, str(folder), kind], capture_output=True, text=True, check=True
        )
        seconds, megabytes = map(float, done.stdout.split())
        memory[kind].append(megabytes)
        return seconds

    a, b = in_turns(3, lambda: epoch("resident"), lambda: epoch("streamed"))
    anonymous = [f"{median(memory[kind]):,.0f} MB" for kind in ("resident", "streamed")]
    return [
        _row("an epoch over 4 GB, an MLP: all in memory; streamed", a, b),
        ["its anonymous memory above the imports", *anonymous, ""],
    ]


def _row(what: str, usual: list[float], ours: list[float]) -> list[str]:
    return [what, f"{median(usual):.3f} s", f"{median(ours):.3f} s", f"{median_ratio(usual, ours):.2f}×"]


if __name__ == "__main__":
    main()
