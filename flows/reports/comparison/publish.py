"""Keeps each dataset's page in MLflow, on the run of the champion, after a flow."""

from __future__ import annotations

import hashlib
from typing import Any

from flows.reports.comparison.changes import record_of
from flows.reports.comparison.gather import gather
from flows.reports.comparison.last import fingerprint, last_of, remember
from flows.reports.comparison.page import page
from tasks.params import Params
from tasks.tracking.names import store_in
from tasks.tracking.report import PAGE, log_report
from tasks.workspace.report import STATE_DICT_KEY


def log_reports(params: Params, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Logs the pages that have changed, and returns dataset → place of its page below the MLflow server's address.

    Args:
        params: The parameters, with a store.
        rows: The table of results, best first, with what MLflow knows.
    """
    store = store_in(params)
    assert store
    places = {}
    for dataset in params.datasets:
        own = [row for row in rows if row["dataset"] == dataset]
        leading = next((row for row in own if row.get("champion")), own[0] if own else None)
        if leading is None or "page" not in leading:
            continue
        last, made_of = last_of(params, dataset, own), fingerprint(params, dataset, own)
        sha256 = leading.get("report")  # None if the latest page is on another run
        if last is None or last.made_of != made_of or sha256 is None:
            last, changes = record_of(params, dataset, own, made_of, last)
            content = page([gather(params, dataset, params.experiments_of(dataset), rows, changes=changes)])
            of_run = leading["experiment"], leading[STATE_DICT_KEY]
            if not log_report(store, dataset, *of_run, content, last.as_json()):
                continue
            sha256 = hashlib.sha256(content).hexdigest()
        remember(dataset, last, sha256)
        places[dataset] = f"{leading['page']}/artifacts/{PAGE}"
    return places
