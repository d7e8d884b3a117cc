"""(q) 1,000 stages: what Prefect, DVC and Ray cost for each, alone and together in a flow whose stages only sleep."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.cluster import fill
from bench.common import environment, project, run, show
from tests.support.ray_cluster import ray_nodes

SECONDS, AT_A_TIME = 1.0, 64
DATASETS = 166  # with six stages each
# Prints what is measured, a line each; runs in the project's folder.
MEASURES = '''
import os, sys, time
from contextlib import contextmanager
from concurrent.futures import ThreadPoolExecutor

what, seconds, at_a_time = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])


class Sleeping:
    """A stage of an executor that only sleeps."""

    waits = False

    def lines(self):
        time.sleep(seconds)
        yield "slept"

    def wait(self):
        from tasks.workspace.outcome import Outcome

        return 0, Outcome("slept")

    def end(self):
        pass


class Sleepers:
    @contextmanager
    def start(self, stage, force):
        yield Sleeping()


def told(name, start):
    print("MEASURED", name, time.perf_counter() - start, flush=True)


if what == "dvc":
    from pathlib import Path
    from flows.graph import Graph

    start = time.perf_counter()
    graph = Graph(Path.cwd())
    told("graph", start)
    start = time.perf_counter()
    graph.changed()
    told("changed", start)
    first, *_ = [name for name in graph.stages if name.startswith("split@")]
    start = time.perf_counter()
    graph.changed([first])
    told("one", start)
    start = time.perf_counter()
    for _ in range(10):
        with graph.repo.lock:
            graph.stages[first].dump(update_pipeline=False)
    told("lock", start)
    from flows.executors.exchange import Exchange

    exchange = Exchange(graph)
    start = time.perf_counter()
    for _ in range(10):
        exchange.is_remembered(first)
        exchange.entries([first])
    told("asked", start)
elif what == "flow":
    import flows.pipeline as pipeline
    from flows.servers.temporary import start_temporary_server
    from flows.stage_tasks import stages_run_by

    server = start_temporary_server()
    server.wait()
    start = time.perf_counter()
    with stages_run_by(Sleepers()):
        state = pipeline.pipeline(workers=at_a_time, force=True, return_state=True)
    assert state.is_completed(), state.message
    told("flow", start)
elif what == "ray":
    import ray

    ray.init(os.environ["RAY_PLACE"], log_to_driver=False)
    sleep = ray.remote(lambda seconds: time.sleep(seconds))
    ray.get([sleep.remote(0) for _ in range(at_a_time)])
    start = time.perf_counter()
    with ThreadPoolExecutor(at_a_time) as threads:
        list(threads.map(lambda _: ray.get(sleep.options(num_cpus=1 / 32).remote(seconds)), range(int(sys.argv[4]))))
    told("ray", start)
'''


def main() -> None:
    with project() as folder:
        fill(folder, DATASETS, 0)
        _lock(folder)
        stages = 6 * DATASETS + 1
        found = _measure(folder, "dvc") | _measure(folder, "flow")
        with tempfile.TemporaryDirectory() as name, ray_nodes(Path(name) / "nodes", count=2) as nodes:
            found |= _measure(folder, "ray", RAY_PLACE=nodes.address, **nodes.environment)
        lines = len((folder / "dvc.lock").read_text(encoding="utf-8").splitlines())
    ideal = stages * SECONDS / AT_A_TIME
    show(
        f"(q) {stages:,} stages ({lines:,} lines of dvc.lock) that sleep {SECONDS:g} s, {AT_A_TIME} at a time, seconds",
        ["what", "measured", "for each stage"],
        [
            ["DVC: the graph is read", f"{found['graph']:.1f}", f"{found['graph'] / stages:.4f}"],
            [
                "DVC: all stages are compared",
                f"{found['changed']:.1f}",
                f"{found['changed'] / stages:.4f}",
            ],
            ["DVC: one stage is compared", f"{found['one']:.2f}", f"{found['one']:.4f}"],
            ["DVC: an entry of dvc.lock is written", f"{found['lock'] / 10:.3f}", f"{found['lock'] / 10:.4f}"],
            ["the flow asks DVC about a stage for a node", f"{found['asked'] / 10:.3f}", f"{found['asked'] / 10:.4f}"],
            ["Ray alone", f"{found['ray']:.1f}", f"{(found['ray'] - ideal) / stages:.4f}"],
            ["the flow, with Prefect and its graph", f"{found['flow']:.1f}", f"{(found['flow'] - ideal) / stages:.4f}"],
        ],
        f"the ideal is {ideal:.1f} s; the last column of Ray and the flow is what is beyond it",
    )


def _measure(folder: Path, what: str, **variables: str) -> dict[str, float]:
    command = [sys.executable, "-c", MEASURES, what, str(SECONDS), str(AT_A_TIME), str(6 * DATASETS + 1)]
    own = environment(folder, **variables) | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{what} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return {name: float(value) for name, value in re.findall(r"MEASURED (\w+) (\S+)", done.stdout)}


def _lock(folder: Path) -> None:
    """Runs the stages of one dataset, and copies their entries of dvc.lock for all others."""
    for stage in ("download@d0", "register@d0"):
        run(folder, "python", "-m", "flows.cli", "run", stage)
    lock = folder / "dvc.lock"
    text = lock.read_text(encoding="utf-8")
    entries = "".join(re.findall(r"^  \w+@[de]0:\n(?:   .*\n)+", text, re.MULTILINE))
    others = (re.sub(r"\b([de])0\b", rf"\g<1>{number}", entries) for number in range(1, DATASETS))
    lock.write_text(text + "".join(others), encoding="utf-8")


if __name__ == "__main__":
    main()
