"""(e) The flow against serial `dvc repro`; with nothing to do, against as many empty tasks; what a stage adds in it."""

from __future__ import annotations

from pathlib import Path

from bench.common import in_turns, median, median_ratio, project, run, show

TIMES = 3
EMPTY = """
from prefect import flow, task

@task
def nothing(): pass

@flow
def empty():
    for future in [nothing.submit() for _ in range(30)]:
        future.wait()

empty()
"""


def main() -> None:
    def cold(*command: str) -> float:
        with project() as folder:
            return run(folder, *command)

    flow = ("python", "-m", "flows.pipeline")
    serial, parallel = in_turns(TIMES, lambda: cold("dvc", "repro", "--quiet"), lambda: cold(*flow))
    show(
        f"(e) four datasets, seven experiments, nothing made before, medians of {TIMES} in turns",
        ["dvc repro", "flow", "flow ÷ dvc repro"],
        [[f"{median(serial):.1f} s", f"{median(parallel):.1f} s", f"{median_ratio(parallel, serial):.2f}×"]],
    )
    with project() as folder:
        run(folder, *flow)
        empty, warm = in_turns(TIMES, lambda: run(folder, "python", "-c", EMPTY), lambda: run(folder, *flow))
        more = median([b - a for a, b in zip(empty, warm, strict=True)])
        show(
            f"    31 stages, nothing to do, medians of {TIMES} in turns",
            ["flow of 30 empty tasks", "flow", "more"],
            [[f"{median(empty):.1f} s", f"{median(warm):.1f} s", f"{more:+.1f} s"]],
        )
        bare, in_flow = in_turns(
            TIMES,
            lambda: run(folder, "python", "-m", "tasks.train", "digits-mlp"),
            lambda: _stage_in_flow(folder),
        )
        more = median([b - a for a, b in zip(bare, in_flow, strict=True)])
        show(
            f"    train@digits-mlp, medians of {TIMES} in turns",
            ["python -m tasks.train", "the task in the flow", "more"],
            [[f"{median(bare):.1f} s", f"{median(in_flow):.1f} s", f"{more:+.1f} s"]],
            "the task: DVC's process around the stage, its look at the graph, its lock and cache; Prefect's task run",
        )


def _stage_in_flow(folder: Path) -> float:
    """Seconds of the task run, as Prefect has them."""
    code = (
        "from flows.pipeline import pipeline\n"
        "from prefect import get_client\n"
        "from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName\n"
        "state = pipeline(['train@digits-mlp'], force=True, return_state=True)\n"
        "with get_client(sync_client=True) as client:\n"
        "    name = TaskRunFilter(name=TaskRunFilterName(any_=['train digits-mlp']))\n"
        "    runs = client.read_task_runs(task_run_filter=name)\n"
        "print('seconds', max(runs, key=lambda run: run.start_time).total_run_time.total_seconds())\n"
    )
    seconds: list[float] = []
    run(
        folder,
        "python",
        "-c",
        code,
        output=lambda text: seconds.append(float(text.rpartition("seconds ")[2].split()[0])),
    )
    return seconds[0]


if __name__ == "__main__":
    main()
