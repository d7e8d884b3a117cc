"""Keeps each dataset's page in MLflow, on the run of the champion, after a flow."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from flows.reports.comparison.gather import gather
from flows.reports.comparison.page import page
from tasks.params import Params
from tasks.tracking.report import PAGE, log_report
from tasks.workspace.files import write_atomically
from tasks.workspace.report import STATE_DICT_KEY

KNOWN = Path(".dvc/tmp/reports.json")  # dataset → what its page was made of when it was logged


def log_reports(params: Params, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Logs the pages that have changed, and returns dataset → place of its page below the MLflow server's address.

    Args:
        params: The parameters, with a store.
        rows: The table of results, best first, with what MLflow knows.
    """
    assert params.tracking
    known, places = _known(), {}
    for dataset in params.datasets:
        own = [row for row in rows if row["dataset"] == dataset]
        leading = next((row for row in own if row.get("champion")), own[0] if own else None)
        if leading is None or "page" not in leading:
            continue
        made_of = _fingerprint(params, dataset, own)
        if known.get(dataset) != made_of:
            names = params.experiments_of(dataset)
            content = page([gather(params, dataset, names, rows)])
            if not log_report(params.tracking, dataset, leading["experiment"], leading[STATE_DICT_KEY], content):
                continue
            known[dataset] = made_of
            write_atomically(KNOWN, json.dumps(known).encode())
        places[dataset] = f"{leading['page']}/artifacts/{PAGE}"
    return places


def _known() -> dict[str, str]:
    try:
        found = json.loads(KNOWN.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _fingerprint(params: Params, dataset: str, rows: list[dict[str, Any]]) -> str:
    """Returns a hash of what a page is made of: settings, metrics, weights (by their sha256), and what MLflow knows."""
    settings = {name: params.experiment(name).model_dump() for name in params.experiments_of(dataset)}
    made_of = [params.tracking, params.dataset(dataset).model_dump(), settings, rows]
    return hashlib.sha256(json.dumps(made_of, default=str).encode()).hexdigest()
