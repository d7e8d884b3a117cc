"""The process that trains trials of a sweep: `python -m tasks.sweep.worker EXPERIMENT`.

It reads trials from its standard input and writes what becomes of them to its standard output, one JSON object on each
line. It ends when its standard input ends, even in the middle of a trial.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from tasks.params import PARAMS_FILE, read_yaml
from tasks.sweep.trial import Trainer
from tasks.workspace.processes import collect_garbage_rarely, end_at_once

if TYPE_CHECKING:
    from learn.training.loop import Epoch


def main() -> None:
    """Trains the trials that come on standard input."""
    collect_garbage_rarely()
    Worker(os.dup(1)).run(sys.argv[1])
    end_at_once()


class Worker:
    """Trains one trial after the other.

    Args:
        output: The file descriptor for messages; everything that is printed goes to standard error instead.
    """

    def __init__(self, output: int) -> None:
        os.dup2(2, 1)
        self._output = os.fdopen(output, "w", encoding="utf-8")
        self._requests: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def run(self, experiment: str) -> None:
        """Trains until standard input ends."""
        threading.Thread(target=self._read, daemon=True).start()
        trainer = Trainer(read_yaml(PARAMS_FILE), experiment)
        while True:
            request = self._requests.get()
            every = request["report_every"]

            def goes_on(epoch: Epoch, every: int = every) -> bool:
                if not every or epoch.number % every:
                    return True
                self._say({"epoch": epoch.number, "metrics": epoch.metrics})
                return bool(self._requests.get()["goes_on"])

            self._say({"outcome": asdict(trainer.train(request["settings"], goes_on))})

    def _say(self, message: dict[str, Any]) -> None:
        self._output.write(json.dumps(message, default=str) + "\n")
        self._output.flush()

    def _read(self) -> None:
        for line in sys.stdin:
            self._requests.put(json.loads(line))
        os._exit(0)


if __name__ == "__main__":
    main()
