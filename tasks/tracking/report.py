"""Keeps the comparison of a dataset's experiments as a page in MLflow."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from tasks.tracking.delivery import open_store
from tasks.tracking.runs import find_run
from tasks.tracking.tags import REPORT

PAGE = "report.html"  # name of the artifact


def log_report(uri: str, dataset: str, experiment: str, digest: str, page: bytes) -> bool:
    """Logs the page as an artifact of an experiment's run, unless the run has the same one; idempotent.

    Args:
        uri: Address of the store.
        dataset: Name of the dataset.
        experiment: Name of the experiment.
        digest: sha256 of its state_dict.
        page: Content of the page.

    Returns:
        Whether the run has the page now; False if MLflow has no run of the experiment.
    """
    content = hashlib.sha256(page).hexdigest()
    with open_store(uri) as client:
        run = find_run(client, dataset, experiment, digest)
        if run is None:
            return False
        if run.data.tags.get(REPORT) != content:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, PAGE)
                file.write_bytes(page)
                client.log_artifact(run.info.run_id, str(file))
            client.set_tag(run.info.run_id, REPORT, content)
        return True
