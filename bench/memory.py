"""Memory: how far training on Fashion-MNIST, and the transform stage on photos, go above what their imports take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from bench.common import mirror, project, run, show
from tests.support.project import ROOT

# The peak is reset once everything is imported (Linux); the stage then runs in the same process.
MEASURE = """
import json, sys
from pathlib import Path
import torch, torchinfo, torch._dynamo, tqdm, numpy
import learn.training.build, learn.training.loop, learn.training.splits, tasks.train
from tasks.stage import checked_params
from tests.support.project import ROOT

def status(key):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(key)) / 1024

Path("/proc/self/clear_refs").write_text("5")
before = status("VmHWM")
tasks.train.train(checked_params(), sys.argv[1])
print(json.dumps([before, status("VmHWM")]))
"""


def peak(folder: str, name: str) -> tuple[float, float]:
    """MB of resident memory after the imports, and at the peak."""
    done = subprocess.run([sys.executable, "-c", MEASURE, name], cwd=folder, capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout.splitlines()[-1])
    return before, after


TRANSFORM = """
import json, os, sys
from pathlib import Path
import imagehash, numpy, scipy.fftpack, tqdm, PIL.Image
import learn.data.datasets.images, tasks.params, tasks.photos
PIL.Image.init()

def status(key):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(key)) / 1024

classes, photos, size = ("cat", "dog"), int(sys.argv[1]), int(sys.argv[2])
source = learn.data.datasets.images.Images("images", "there", "0", classes, photos, 0)
dataset = tasks.params.DatasetConfig(
    source=source,
    split=tasks.params.SplitConfig(test=0.2, shuffle=True, seed=0),
    transform=tasks.params.TransformConfig(resize=size, mode="RGB", broken="stop"),
    champion=tasks.params.ChampionConfig(metric="accuracy"),
)
index = numpy.random.default_rng(0).permutation(photos)
parts = {"train": index[: photos * 4 // 5], "test": index[photos * 4 // 5 :]}
Path("/proc/self/clear_refs").write_text("5")
before = status("VmHWM")
Path("made").mkdir(exist_ok=True)
sys.stdout = open(os.devnull, "w")
tasks.photos.transform_photos("pets", dataset, parts, dict.fromkeys(parts, Path("made")))
print(json.dumps([before, status("VmHWM")]), file=sys.__stdout__)
"""
SETS = ((70_000, 28, 28), (5_000, 600, 224), (300, 4000, 224))  # photos, their width and height, what they become


def transform_peak(photos: int, width: int, size: int) -> tuple[float, float]:
    """The same of the transform stage, on pictures of noise."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cat", "dog"):
            (Path(folder) / "data/raw/pets" / name).mkdir(parents=True)
        whole = rng.integers(0, 255, (width, width, 3), dtype=np.uint8)
        for number in range(photos):
            picture = np.roll(whole, rng.integers(0, width, 2), (0, 1))  # each another
            name = f"data/raw/pets/{('cat', 'dog')[number % 2]}/{number}.jpg"
            Image.fromarray(picture).save(Path(folder) / name, quality=50)
        command = [sys.executable, "-c", TRANSFORM, str(photos), str(size)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout.splitlines()[-1])
    return before, after


def main() -> None:
    rows = []
    for photos, width, size in SETS:
        before, after = transform_peak(photos, width, size)
        what = f"{photos:,} of {width}×{width} → {size}×{size}"
        rows.append([what, f"{before:.0f} MB", f"{after:.0f} MB", f"{after - before:.0f} MB"])
    show("Memory of the transform stage on photos", ["photos", "after imports", "peak", "above"], rows)
    if not mirror():
        return
    rows = []
    with project() as folder:
        run(folder, "python", "-m", "flows.cli", "add", "fashion_mnist")
        run(folder, "dvc", "repro", "--quiet", "transform@fashion_mnist")
        for name in ("fashion-v0", "fashion-v1", "fashion-v2"):
            before, after = peak(str(folder), name)
            rows.append([name, f"{before:.0f} MB", f"{after:.0f} MB", f"{after - before:.0f} MB"])
    show("Memory of `python -m tasks.train`", ["experiment", "after imports", "peak", "above"], rows)


if __name__ == "__main__":
    main()
