"""A real Ray cluster of several nodes in this machine, each with a work folder of its own, for tests.

    python -m tests.support.ray_cluster PORT FOLDER

It reads lines: `add` starts a node and prints its number, `kill N` kills one. Node 0 is the head, which runs no stages.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class RayNodes:
    process: subprocess.Popen[str]
    address: str
    folder: Path

    def ask(self, line: str) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def add(self) -> int:
        return int(self.ask("add"))

    def kill(self, number: int) -> None:
        assert self.ask(f"kill {number}") == "killed"

    def work(self, number: int) -> Path:
        """The folder of a node."""
        return self.folder / f"node-{number}"


@contextmanager
def ray_nodes(folder: Path, port: int, count: int) -> Iterator[RayNodes]:
    """A head, and so many nodes with one CPU each."""
    folder.mkdir(parents=True)
    with (folder / "cluster.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.ray_cluster", str(port), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "TRACKWAY_WARM": ""},
        )
    with process:
        try:
            nodes = RayNodes(process, f"ray://127.0.0.1:{port}", folder)
            assert process.stdout
            assert process.stdout.readline() == "ready\n", (folder / "cluster.log").read_text()
            for _ in range(count):
                nodes.add()
            yield nodes
        finally:
            assert process.stdin
            process.stdin.close()  # it then shuts down
            process.wait(60)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints
    from ray.cluster_utils import Cluster

    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    here = {"node_ip_address": "127.0.0.2"}  # loopback; Ray replaces 127.0.0.1 by another address of this machine
    head = {"num_cpus": 0, "ray_client_server_port": port, "include_dashboard": False, **here}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.head_node]
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        match line.split():
            case ["add"]:
                variables = {"TRACKWAY_NODE_FOLDER": str(folder / f"node-{len(nodes)}")}
                nodes.append(cluster.add_node(num_cpus=1, env_vars=variables, **here))
                print(len(nodes) - 1, file=answers, flush=True)
            case ["kill", number]:
                cluster.remove_node(nodes[int(number)], allow_graceful=False)
                print("killed", file=answers, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
