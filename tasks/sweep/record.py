"""Brings a sweep to MLflow while its trials run, in a thread, so that no trial waits for it."""

from __future__ import annotations

import csv
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from learn.comparison.ranking import ranked
from learn.errors import TrackingError
from tasks.sweep.space import as_text
from tasks.sweep.study import Result, Sweep
from tasks.sweep.trial import COMPLETE, DIVERGED, FAILED, PRUNED
from tasks.tracking.names import Store
from tasks.tracking.sweeps import SweepRecord, TrialRecord, write_sweep
from tasks.tracking.tags import DATA_TAGS, STATE_DICT

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Recorder:
    """Writes the trials that have ended to MLflow.

    Args:
        store: The store; None writes nothing.
        sweep: The sweep.
        dataset: Name of the dataset.
        md5: md5 of the samples of the split that decides.
    """

    def __init__(self, store: Store | None, sweep: Sweep, dataset: str, md5: str) -> None:
        self._store, self._sweep, self._dataset, self._md5 = store, sweep, dataset, md5
        self._new: list[Result] = []
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def add(self, result: Result) -> None:
        """Adds a trial; it is written now, later if others are being written, or at the end if MLflow failed."""
        self._new.append(result)
        if self._store and (self._writing is None or (self._writing.done() and not self._writing.exception())):
            self._writing = self._thread.submit(self._write, self._new, self._sweep.results(), "RUNNING")
            self._new = []

    def finish(self, status: str) -> None:
        """Writes all trials that MLflow lacks, and the figures; prints a line if MLflow does not take them.

        Args:
            status: FINISHED or KILLED.
        """
        from tasks.sweep.figures import figures

        self._thread.shutdown()
        results = self._sweep.results()
        if not (self._store and results):
            return
        identity = self._sweep.identity
        try:
            self._write(results, results, status, figures(self._sweep.study, f"{identity.part} {identity.metric}"))
        except TrackingError as error:
            print(f"sweep {identity.experiment}: {error}. The trials are kept; the same command brings them to MLflow")

    def _write(
        self, new: list[Result], results: list[Result], status: str, drawn: dict[str, Figure] | None = None
    ) -> None:
        record = sweep_record(self._sweep, results, self._dataset)
        trials = [trial_record(self._sweep, result, self._md5) for result in new]
        assert self._store
        write_sweep(self._store, record, trials, status, drawn)


def best_first(sweep: Sweep, results: list[Result]) -> list[Result]:
    """Returns the trials that are complete, ranked as a dataset's experiments are."""
    identity = sweep.identity
    rows = [
        {
            "experiment": f"{result.number:09}",
            "parameters": result.outcome.settings["parameters"],
            "result": result,
            **(result.outcome.metrics if identity.part == "test" else {identity.part: result.outcome.metrics}),
        }
        for result in results
        if result.outcome.ended == COMPLETE
    ]
    return [row["result"] for row in ranked(rows, identity.part, identity.metric)]


def counted(results: list[Result]) -> str:
    """Returns how many trials there are and how they ended, in words."""
    counts = {ended: sum(result.outcome.ended == ended for result in results) for ended in (PRUNED, DIVERGED, FAILED)}
    rest = ", ".join(f"{count} {ended}" for ended, count in counts.items() if count)
    return f"{len(results)} {'trial' if len(results) == 1 else 'trials'}" + (f" ({rest})" if rest else "")


def sweep_record(sweep: Sweep, results: list[Result], dataset: str) -> SweepRecord:
    """Returns what the parent run says after these trials."""
    identity = sweep.identity
    metrics = {"trials": float(len(results))}
    note = f"A sweep of {identity.experiment}: {counted(results)}; {identity.part} {identity.metric} decides."
    if best := best_first(sweep, results):
        metrics[f"{identity.part}/{identity.metric}"] = best[0].outcome.metrics[identity.metric]
        values = "\n".join(f"- `{key}: {as_text(value)}`" for key, value in best[0].values.items())
        note += f"\n\nThe best is trial {best[0].number}:\n\n{values}"
    return SweepRecord(
        sweep.key,
        dataset,
        identity.experiment,
        identity.space,
        note,
        metrics,
        int(min(result.started for result in results) * 1000),
    )


def trial_record(sweep: Sweep, result: Result, md5: str) -> TrialRecord:
    """Returns what the run of a trial says.

    Args:
        sweep: The sweep.
        result: The trial.
        md5: md5 of the samples of the split that decides.
    """
    part, outcome = sweep.identity.part, result.outcome
    epochs = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(outcome.history.splitlines())]
    tags = {DATA_TAGS[part]: md5}
    return TrialRecord(
        result.number,
        {key: as_text(value) for key, value in result.values.items()},
        outcome.ended,
        outcome.why,
        outcome.settings,
        {f"{part}/{key}": value for key, value in outcome.metrics.items()} | {"train/seconds": outcome.seconds},
        epochs,
        tags | ({STATE_DICT: outcome.sha256} if outcome.sha256 else {}),
        int(result.started * 1000),
        int(result.ended * 1000),
    )
