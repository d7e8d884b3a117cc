"""Keeps the comparison of a dataset's experiments as a page in MLflow."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from tasks.tracking.delivery import open_store
from tasks.tracking.names import Store
from tasks.tracking.runs import find_run
from tasks.tracking.store import if_there, patiently
from tasks.tracking.tags import LAST_REPORT, REPORT

PAGE = "report.html"  # name of the artifact
RECORD = "report_record.json"  # name of the artifact that says what the page was made of


def log_report(store: Store, dataset: str, experiment: str, digest: str, page: bytes, record: bytes) -> bool:
    """Logs the page as an artifact of an experiment's run, unless the run has the same one; idempotent.

    Args:
        store: The store.
        dataset: Name of the dataset.
        experiment: Name of the experiment.
        digest: sha256 of its state_dict.
        page: Content of the page.
        record: What it was made of, which `last_record` returns.

    Returns:
        Whether the run has the page now; False if MLflow has no run of the experiment.
    """
    content = hashlib.sha256(page).hexdigest()
    with open_store(store.uri) as client:
        run = find_run(client, store.name(dataset), experiment, digest)
        if run is None:
            return False
        files = {RECORD: record} | ({PAGE: page} if run.data.tags.get(REPORT) != content else {})
        with tempfile.TemporaryDirectory() as folder:
            for name, of in files.items():
                Path(folder, name).write_bytes(of)
            client.log_artifacts(run.info.run_id, folder)
        client.set_tag(run.info.run_id, REPORT, content)
        client.set_experiment_tag(run.info.experiment_id, LAST_REPORT, run.info.run_id)
        return True


@patiently
def last_record(store: Store, dataset: str) -> bytes | None:
    """Returns what the latest page of a dataset was made of; None if MLflow has none.

    Args:
        store: The store.
        dataset: Name of the dataset.
    """
    with open_store(store.uri) as client:
        experiment = client.get_experiment_by_name(store.name(dataset))
        run_id = experiment.tags.get(LAST_REPORT) if experiment else None
        items = if_there(lambda: client.list_artifacts(run_id)) if run_id else None
        if run_id is None or RECORD not in {item.path for item in items or ()}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run_id, RECORD, folder)).read_bytes()
