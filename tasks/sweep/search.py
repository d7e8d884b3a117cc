"""Runs the trials of a sweep in worker processes: Optuna chooses their values here, and the workers only train."""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from learn.errors import SweepError
from tasks.sweep.space import with_values
from tasks.sweep.study import Result, Sweep
from tasks.sweep.trial import FAILED, Outcome

if TYPE_CHECKING:
    from optuna import Trial

MOST_REPORTS = 100  # number of epochs of a trial that are reported, so that a trial of many epochs is not slowed down


def search(
    sweep: Sweep, settings: dict[str, Any], total: int, workers: int, prune: bool, ended: Callable[[Result], object]
) -> None:
    """Runs trials until `total` have ended, or all combinations if there are fewer.

    Trials that run when the search is stopped are marked as interrupted.

    Args:
        sweep: The sweep, which no other process works on.
        settings: The experiment, as params.yaml has it, with one seed.
        total: Number of trials, with those that have ended before.
        workers: Number of processes that train at the same time.
        prune: Stop trials early that are worse than the others.
        ended: Called after each trial.

    Raises:
        SweepError: A worker ended unexpectedly.
    """
    left = min(total, sweep.size or total) - len(sweep.results())
    if left <= 0:
        return
    running: dict[int, Trial] = {}
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        started = [stack.enter_context(Worker(sweep.identity.experiment)) for _ in range(min(workers, left))]
        try:
            for worker in started:
                selector.register(worker.output, selectors.EVENT_READ, worker)
                running[worker.pid] = _begin(sweep, worker, settings, prune)
                left -= 1
            while running:
                for key, _ in selector.select():
                    worker = key.data
                    trial = running[worker.pid]
                    try:
                        message = worker.receive()
                    except SweepError as error:  # the trial does not run again, or it might end the next process, too
                        ended(sweep.tell(trial, Outcome(FAILED, str(error))))
                        raise
                    if "epoch" in message:
                        worker.send({"goes_on": sweep.report(trial, message["epoch"], message["metrics"])})
                        continue
                    del running[worker.pid]
                    ended(sweep.tell(trial, Outcome(**message["outcome"])))
                    if left:
                        running[worker.pid] = _begin(sweep, worker, settings, prune)
                        left -= 1
                    else:
                        selector.unregister(worker.output)
        finally:
            sweep.interrupt()


def _begin(sweep: Sweep, worker: Worker, settings: dict[str, Any], prune: bool) -> Trial:
    """Gives a worker the next trial, and returns the trial."""
    trial = sweep.ask()
    changed = with_values(settings, sweep.values(trial))
    every = max(1, changed["epochs"] // MOST_REPORTS) if prune else 0
    worker.send({"settings": changed, "report_every": every})
    return trial


class Worker:
    """A process that trains trials (worker.py); use it as a context manager, which ends the process.

    It is in a process group of its own, so that Ctrl-C in the terminal reaches only the process that started it.
    """

    def __init__(self, experiment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tasks.sweep.worker", experiment],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._input, self.output = self._process.stdin, self._process.stdout
        self.pid = self._process.pid

    def send(self, message: dict[str, Any]) -> None:
        """Sends a trial, or whether a trial goes on."""
        with suppress(BrokenPipeError):  # the process has ended, which `receive` tells
            self._input.write(json.dumps(message, default=str) + "\n")
            self._input.flush()

    def receive(self) -> dict[str, Any]:
        """Returns the next message; raises SweepError if the process has ended."""
        if not (line := self.output.readline()):
            code = self._process.wait()
            raise SweepError(
                f"the process that trained a trial ended unexpectedly (exit code {code}; what it printed stands above, "
                "-9 may mean that the memory was full); the trial has failed, the same command goes on with the next"
            )
        return json.loads(line)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(BrokenPipeError):
            self._input.close()
        self._process.wait()
        self.output.close()
