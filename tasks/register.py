"""`metrics/D/` → `metrics/D.csv`, the comparison of a dataset's experiments; the best may become champion in MLflow.

python -m tasks.register digits
"""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from learn.metrics import METRICS
from learn.params import Params
from tasks.stage import comparison_file, metrics_file, report_file, run_stage, write_atomically
from tasks.tracking import STATE_DICT, TEST_DATA, Candidate, register_champion


def register(params: Params, name: str) -> None:
    """Compares the experiments of a dataset and registers the best one's model, if it beats the present champion."""
    experiments = [e for e, experiment in params.experiments.items() if experiment.dataset == name]
    keep = {path(name, e) for e in experiments for path in (metrics_file, report_file)}
    for file in metrics_file(name, "*").parent.glob("*"):
        if file not in keep:  # of an experiment that params.yaml no longer has
            file.unlink()
    rows = compared(params, name)
    write_atomically(comparison_file(name), _as_csv(rows))
    print(f"register {name}: {register_best(params, name, rows)}")


def compared(params: Params, name: str) -> list[dict[str, Any]]:
    """A row for each experiment of a dataset, best first."""
    experiments = [e for e, experiment in params.experiments.items() if experiment.dataset == name]
    rows = [{"experiment": e, **json.loads(metrics_file(name, e).read_bytes())} for e in experiments]
    return ranked(rows, params.dataset(name).champion.metric)


def register_best(params: Params, name: str, rows: list[dict[str, Any]]) -> str:
    """Registers the model of the first row, if it beats the present champion; returns what happened.

    A model that predicts one class for everything is passed over: its metric says how common that class is.
    """
    if not rows:
        return "no experiments"
    learned = []
    for row in rows:
        diagnosis = json.loads(report_file(name, row["experiment"]).read_bytes())["diagnosis"]
        if diagnosis["kind"] == "constant":
            print(f"register {name}: {row['experiment']} cannot be champion: it says {diagnosis['summary']}")
        else:
            learned.append(row)
    if not learned:
        return "no champion: every experiment predicts one class for everything"
    rows = learned
    metric, best = params.dataset(name).champion.metric, rows[0]["experiment"]
    report = json.loads(report_file(name, best).read_bytes())
    candidate = Candidate(best, metric, rows[0][metric], report[STATE_DICT], report[TEST_DATA])
    return register_champion(params.tracking, name, candidate)


def ranked(rows: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Best first by the metric (NaN last); among equals fewer parameters, then the name."""
    sign = -1 if METRICS[metric].better == "higher" else 1

    def key(row: dict[str, Any]) -> tuple[bool, float, int, str]:
        value = row[metric]
        return (value != value, sign * value, row["parameters"], row["experiment"])

    return sorted(rows, key=key)


def _as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue().encode()


if __name__ == "__main__":
    run_stage(register, "datasets")
