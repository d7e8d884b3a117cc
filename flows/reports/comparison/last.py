"""The record of each dataset's last page: kept in this folder for its own flows, and in MLflow for those elsewhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from flows.reports.comparison.changes import Record, record_from, record_of
from flows.reports.comparison.records import Changes
from tasks.params import Params
from tasks.tracking.names import store_in
from tasks.tracking.report import last_record
from tasks.workspace.files import write_atomically

KNOWN = Path(".dvc/tmp/reports.json")  # dataset → the record of its page that was logged


def last_of(params: Params, dataset: str, rows: list[dict[str, Any]], *, ask: bool = True) -> Record | None:
    """Returns the record of the last page that was logged of a dataset, here or elsewhere; None if there is none.

    Args:
        params: The parameters.
        dataset: Name of the dataset.
        rows: The dataset's rows of the table of results.
        ask: Whether to ask MLflow, which takes seconds, if the latest page was not logged from this folder.
    """
    found = _known().get(dataset)
    if found and any("page" in row for row in rows) and found.get("sha256") != shown(rows):
        found = None  # another folder logged a page to the same store, or the page was lost
    content = json.dumps(found).encode() if found else None
    if found is None and ask and (store := store_in(params)):
        content = last_record(store, dataset)
    return record_from(content) if content else None


def changes_of(params: Params, dataset: str, rows: list[dict[str, Any]], *, ask: bool) -> Changes | None:
    """Returns what changed since the report before; None if nothing is known of earlier reports.

    Args:
        params: The parameters.
        dataset: Name of the dataset.
        rows: The table of results.
        ask: Whether to ask MLflow if the latest page was not logged from this folder.
    """
    own = [row for row in rows if row["dataset"] == dataset]
    last = last_of(params, dataset, own, ask=ask)
    if not params.tracking or (last is None and not ask):
        return None
    return record_of(params, dataset, own, fingerprint(params, dataset, own), last)[1]


def _known() -> dict[str, Any]:
    try:
        found = json.loads(KNOWN.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def shown(rows: list[dict[str, Any]]) -> str | None:
    """Returns the sha256 of a dataset's latest page in MLflow, if one of these rows' runs has it."""
    return next((row["report"] for row in rows if row.get("report")), None)


def remember(dataset: str, record: Record, sha256: str | None) -> None:
    """Keeps the record of a page that was logged, and the page's sha256, in this folder."""
    known = _known()
    if known.get(dataset) != (new := {**json.loads(record.as_json()), "sha256": sha256}):
        write_atomically(KNOWN, json.dumps({**known, dataset: new}).encode())


def fingerprint(params: Params, dataset: str, rows: list[dict[str, Any]]) -> str:
    """Returns a hash of what a page is made of: settings, metrics, weights (by their sha256), and what MLflow knows."""
    settings = {name: params.experiment(name).model_dump() for name in params.experiments_of(dataset)}
    said = [{key: value for key, value in row.items() if key != "report"} for row in rows]
    made_of = [params.tracking, params.dataset(dataset).model_dump(), settings, said]
    return hashlib.sha256(json.dumps(made_of, default=str).encode()).hexdigest()
