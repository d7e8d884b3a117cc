"""Runs the benchmarks named on the command line, all of them by default, and prints a table for each.

Everything is compared within one run, in turns, and reported as medians: machines are noisy.
"""

from __future__ import annotations

import importlib
import sys

BENCHMARKS = (
    "loop",
    "tracking",
    "repro",
    "flow",
    "photos",
    "quickstart",
    "warm",
    "many",
    "memory",
    "compare",
    "statistics",
    "sweep",
    "seeds",
    "compiled",
    "features",
    "serving",
    "cluster",
    "scale",
)

if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHMARKS:
        importlib.import_module(f"bench.{name}").main()
