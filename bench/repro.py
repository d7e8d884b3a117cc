"""(c) `dvc repro` with nothing to do against `dvc status`."""

from __future__ import annotations

from bench.common import in_turns, median, median_ratio, project, run, show

TIMES = 7


def main() -> None:
    with project() as folder:
        run(folder, "dvc", "repro", "--quiet")
        status, repro = in_turns(TIMES, lambda: run(folder, "dvc", "status"), lambda: run(folder, "dvc", "repro"))
    show(
        f"(c) nothing to do, medians of {TIMES} in turns",
        ["dvc status", "dvc repro", "ratio"],
        [[f"{median(status):.2f} s", f"{median(repro):.2f} s", f"{median_ratio(repro, status):.2f}×"]],
    )


if __name__ == "__main__":
    main()
