"""Memory: how far training on Fashion-MNIST goes above what its imports take."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.common import mirror, project, run, show

# The peak is reset once everything is imported (Linux); the stage then runs in the same process.
MEASURE = """
import json, sys
from pathlib import Path
import torch, torchinfo, torch._dynamo, tqdm, numpy
import learn.build, learn.loop, learn.parts, tasks.train
from tasks.stage import checked_params

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


def main() -> None:
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
