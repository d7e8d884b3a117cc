"""(p) A Ray cluster of pretended nodes in this machine: what a stage adds there, and many stages on 1, 2 and 4 nodes.

The nodes share nothing but the network, and DVC's remote is an S3 store. All of them have this machine's cores.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from bench.common import environment, project, run, show
from tests.support.project import free_port, wait_until
from tests.support.ray_cluster import ray_nodes

STAGES, SECONDS = 64, 1  # so many stages that each sleep so long
NODES = (1, 2, 4)
SLEEPER = '''"""A dataset whose download sleeps, for a benchmark."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from learn.data.source import Generated


@dataclass(frozen=True)
class Sleeper(Generated):
    """Two classes of numbers."""

    seconds: float
    number: int

    @property
    def sizes(self) -> tuple[int, int]:
        """Only free samples."""
        return 100, 0

    @property
    def shape(self) -> tuple[int, ...]:
        """One number."""
        return (1,)

    @property
    def classes(self) -> tuple[str, ...]:
        """Two."""
        return ("a", "b")

    def generate(self) -> tuple[np.ndarray, np.ndarray]:
        """Sleeps, then returns numbers (100, 1) and classes (100,)."""
        time.sleep(self.seconds)
        places = np.arange(100) + self.number
        return places.astype(np.float32)[:, None], places % 2
'''
IMPORT = "from learn.data.datasets.sleeper import Sleeper"
DATASET = """\
  d{0}:
    source: {{name: sleeper, seconds: {1}, number: {0}}}
    split: {{test: 0.2, shuffle: false, seed: 42}}
    transform: {{}}
    champion: {{metric: accuracy}}
"""
EXPERIMENT = """\
  e{0}:
    dataset: d{0}
    model: {{name: mlp, hidden_units: [], activation: null}}
    loss: {{name: CrossEntropyLoss}}
    optimizer: {{name: SGD, lr: 0.1}}
    epochs: 1
    batch_size: full
    seed: 42
"""
TIME = re.compile(r"^(\d\d:\d\d:\d\d\.\d+) .*?Task run 'download d\d+' - Finished in state", re.MULTILINE)


def main() -> None:
    rows = []
    with _sleepers() as folder, s3(folder) as variables:
        local = _spent(folder, "--workers", "1", **variables)
        with tempfile.TemporaryDirectory() as name, ray_nodes(Path(name) / "nodes", count=NODES[0]) as nodes:
            for count in NODES:
                while len(nodes.processes) - 1 < count:
                    nodes.add()
                spent = _spent(folder, "--on", nodes.address, **nodes.environment, **variables)
                ideal = (STAGES - count) * SECONDS / count
                added = f"{(spent - local) / (STAGES - 1):.2f}" if count == 1 else ""
                rows.append([str(count), f"{ideal:.0f}", f"{spent:.1f}", f"{ideal / spent:.0%}", added])
    show(
        f"(p) {STAGES} stages of {SECONDS} s on nodes with one CPU each, {os.cpu_count()} cores in all, seconds",
        ["nodes", "ideal", "measured", "of the ideal", "a stage beyond a local warm one"],
        rows,
        f"one after the other in this folder, warm: {local:.1f} s",
    )


def _spent(folder: Path, *options: str, **variables: str) -> float:
    """The seconds from the end of the first stage of each worker, which waits for imports, to the end of the last."""
    said: list[str] = []
    command = ["python", "-m", "flows.cli", "run", "download", "--force", *options]
    run(folder, "sh", "-c", f"{shlex.join(command)} 2>&1", output=said.append, **variables)
    times = [datetime.strptime(time, "%H:%M:%S.%f") for time in TIME.findall(said[0])]
    assert len(times) == STAGES, said[0]
    return (max(times) - min(times)).total_seconds()


@contextmanager
def _sleepers() -> Iterator[Path]:
    """A project with many datasets whose downloads sleep."""
    with project() as folder:
        fill(folder, STAGES, SECONDS)
        yield folder


def fill(folder: Path, count: int, seconds: float) -> None:
    """Replaces a project's datasets and experiments by so many sleeping ones."""
    (folder / "learn/data/datasets/sleeper.py").write_text(SLEEPER, encoding="utf-8")
    registry = folder / "learn/data/datasets/__init__.py"
    text = registry.read_text(encoding="utf-8")
    text = text.replace('    "wine": Wine,\n', '    "wine": Wine,\n    "sleeper": Sleeper,\n')
    text = text.replace(
        "from learn.data.source", "from learn.data.datasets.sleeper import Sleeper\nfrom learn.data.source"
    )
    registry.write_text(text, encoding="utf-8")
    params = folder / "params.yaml"
    head = params.read_text(encoding="utf-8").partition("\ndatasets:\n")[0]
    head = re.sub(r"^tracking:.*$", "tracking: null", head, flags=re.MULTILINE)
    datasets = "".join(DATASET.format(number, seconds) for number in range(count))
    experiments = "".join(EXPERIMENT.format(number) for number in range(count))
    params.write_text(f"{head}\ndatasets:\n{datasets}\nexperiments:\n{experiments}", encoding="utf-8")


@contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """Starts an S3 store, and makes it the project's remote; yields the variables by which it is reached."""
    variables = {
        "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{(port := free_port())}",
    }
    key = f'"{variables["AWS_ACCESS_KEY_ID"]},{variables["AWS_SECRET_ACCESS_KEY"]}"'
    with tempfile.TemporaryDirectory() as store:
        (Path(store) / "bucket").mkdir()
        own = {"RCLONE_AUTH_KEY": key, "RCLONE_CONFIG": os.devnull}
        command = ["rclone", "serve", "s3", "--addr", f"127.0.0.1:{port}", store]
        with subprocess.Popen(command, env=environment(folder, **own), stderr=subprocess.DEVNULL) as server:
            try:
                run(folder, "dvc", "remote", "add", "--force", "--default", "store", "s3://bucket/dvc")
                wait_until(lambda: _listens(port), 30)
                yield variables
            finally:
                server.terminate()


def _listens(port: int) -> bool:
    from socket import socket

    with socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
