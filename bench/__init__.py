"""Side-by-side benchmarks: `make bench`; or some of them, `python -m bench loop tracking repro quickstart memory`."""
