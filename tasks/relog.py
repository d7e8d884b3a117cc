"""Rebuilds runs in MLflow from DVC's outputs, for outputs that DVC restored and that were not trained here.

What cannot be known any more is left out: how long training took, who trained, at which commit, with which versions.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from learn.errors import TrackingError
from tasks.evaluate import log, measured
from tasks.params import Params
from tasks.register import compared, register_best
from tasks.tracking.delivery import write_run
from tasks.tracking.liveness import now_ms
from tasks.tracking.messages import Begin, End, Epoch, Epochs, Files
from tasks.tracking.queries import missing_parts
from tasks.tracking.registry import why_champion_broken
from tasks.tracking.tags import REBUILT
from tasks.train import plan
from tasks.workspace.files import sha256
from tasks.workspace.paths import history_file, metrics_file, report_file, state_dict_file


def relog(params: Params) -> None:
    """Rebuilds what the store lacks, and prints a line for each experiment and dataset. Idempotent.

    Raises:
        TrackingError: `tracking` is null, the store cannot be used, or DVC cannot tell what is up to date.
    """
    if not params.tracking:
        raise TrackingError("tracking is null in params.yaml: name the store there that runs are to be rebuilt in")
    left_out = set()
    with _dvc() as why_not:
        for name in params.datasets:
            if broken := why_champion_broken(params.tracking, name, load=True):
                print(f"relog {name}: the champion cannot be loaded and is logged again: {broken}")
        for name, experiment in params.experiments.items():
            if reason := why_not(f"evaluate@{name}"):
                left_out.add(experiment.dataset)
                print(f"relog {name}: left out, {reason}; next: dvc repro evaluate@{name}")
            else:
                print(f"relog {name}: {rebuild(params, params.tracking, name)}")
        for name in params.datasets:
            if name in left_out:
                print(f"relog {name}: no champion without all its experiments; next: dvc repro register@{name}")
            else:
                print(f"relog {name}: {register_best(params, name, compared(params, name)).text}")


@contextmanager
def _dvc() -> Iterator[Callable[[str], str | None]]:
    """Yields a function that returns why a stage's outputs are not what params.yaml and the code would make, or None.

    DVC's lock is held until the block ends, so that no other process changes the outputs.
    """
    import networkx as nx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo, repo.lock:
            stages = {stage.addressing: stage for stage in repo.index.stages}
            graph = repo.index.graph  # an edge leads from a stage to a stage that it needs
            reasons: dict[str, str | None] = {}

            def reason(name: str) -> str | None:
                if name not in reasons:
                    missing = [out.def_path for out in stages[name].outs if not out.exists]
                    if missing:
                        reasons[name] = f"{missing[0]} is not there"
                    else:
                        reasons[name] = f"{name} is not up to date" if stages[name].changed() else None
                return reasons[name]

            def first_reason(name: str) -> str | None:
                """Returns the first reason found in the stages that this one needs, or in itself; None without any."""
                needs = nx.dfs_postorder_nodes(graph, stages[name])
                return next((found for need in needs if (found := reason(need.addressing))), None)

            yield first_reason
    except DvcException as error:
        raise TrackingError(f"DVC cannot say what is up to date: {error}") from error


def rebuild(params: Params, uri: str, name: str) -> str:
    """Adds to MLflow what it lacks of an experiment, and returns a text that says what that was."""
    dataset = params.experiment(name).dataset
    missing = missing_parts(uri, dataset, {name: sha256(state_dict_file(name))}).get(name, set())
    if not missing:
        return "MLflow has its run"
    # On the CPU, because this machine may not have the device of the training.
    here = params.model_copy(update={"device": "cpu"})
    if "train" in missing:
        planned = plan(here, name)
        files = Files.of(state_dict_file(name), history_file(name))
        device = {"device": params.device}  # `auto` stays, because the device that was used is unknown
        begin = Begin(planned.settings | device, {REBUILT: "true"}, str(planned.summary))
        write_run(uri, dataset, name, [begin, Epochs(_epochs(name)), files, End("FINISHED")])
    # Measured again for the figures and the model; the numbers come from DVC, since they may differ here in a last bit.
    found = measured(here, name)
    numbers = json.loads(metrics_file(dataset, name).read_bytes())
    parts = {key: value for key, value in numbers.items() if isinstance(value, dict)}
    parts["test"] = {key: value for key, value in numbers.items() if key not in (*found.counts, *parts)}
    report = json.loads(report_file(dataset, name).read_bytes())
    log(here, name, replace(found, metrics=parts, report=report))
    return "rebuilt" if "train" in missing else "its evaluation is added"


def _epochs(name: str) -> list[Epoch]:
    """Returns the history as TrainingRun would send it, but with the present as the time of each epoch."""
    now = now_ms()
    with history_file(name).open(newline="", encoding="utf-8") as stream:
        rows = [dict(row) for row in csv.DictReader(stream)]
    return [Epoch(int(row.pop("epoch")), now, {key: float(value) for key, value in row.items()}) for row in rows]
