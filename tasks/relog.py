"""Rebuilds runs in MLflow from DVC's outputs, for outputs that DVC restored and that were not trained here.

What cannot be known any more is left out: how long training took, who trained, at which commit, with which versions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from learn.errors import BatchError, DataError, DeviceError, TrackingError
from learn.training.history import read_history
from tasks.evaluate import Scores, measured
from tasks.log_evaluation import log_evaluation
from tasks.params import Params
from tasks.plan import Plan, plan
from tasks.register import compared, register_best, report_of, reports_of
from tasks.tracking.delivery import write_run
from tasks.tracking.liveness import now_ms
from tasks.tracking.loading import why_champion_broken
from tasks.tracking.messages import Begin, End, Epoch, Epochs, Files, Message
from tasks.tracking.names import Store, store_in
from tasks.tracking.queries import missing_parts
from tasks.tracking.tags import REBUILT
from tasks.workspace.files import sha256_of
from tasks.workspace.paths import history_file, metrics_file, models_folder, state_dict_files, training_of


def relog(params: Params) -> None:
    """Rebuilds what the store lacks, and prints a line for each experiment and dataset. Idempotent.

    Raises:
        TrackingError: `tracking` is null, the store cannot be used, or DVC cannot tell what is up to date.
    """
    if not (store := store_in(params)):
        raise TrackingError("tracking is null in params.yaml: name the store there that runs are to be rebuilt in")
    left_out = set()
    with _dvc() as why_not:
        for name in params.datasets:
            if broken := why_champion_broken(store, name, load=True):
                print(f"relog {name}: the champion cannot be loaded and is logged again: {broken}")
        for name, experiment in params.experiments.items():
            if reason := why_not(f"evaluate@{name}"):
                left_out.add(experiment.dataset)
                print(f"relog {name}: left out, {reason}; next: dvc repro evaluate@{name}")
                continue
            try:
                print(f"relog {name}: {rebuild(params, store, name)}")
            except (DataError, DeviceError, BatchError) as error:  # of this experiment; the others go on
                left_out.add(experiment.dataset)
                print(f"relog {name}: left out, {error}")
        for name in params.datasets:
            if name in left_out:
                print(f"relog {name}: no champion without all its experiments; next: dvc repro register@{name}")
            else:
                verdict = register_best(params, name, compared(params, name), reports_of(params, name))
                print(f"relog {name}: {verdict.text}")


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


def rebuild(params: Params, store: Store, name: str) -> str:
    """Adds to MLflow what it lacks of an experiment, and returns a text that says what that was."""
    dataset = params.experiment(name).dataset
    digest = sha256_of(state_dict_files(models_folder(name)))
    missing = missing_parts(store, dataset, {name: digest}).get(name, set())
    if not missing:
        return "MLflow has its run"
    # On the CPU, because this machine may not have the device of the training.
    here = params.model_copy(update={"device": "cpu"})
    if "train" in missing:
        planned = plan(here, name, is_pretrained=False)
        write_run(store, dataset, name, [*_messages(planned, params.device)])
    # Measured again for the figures and the model; the numbers come from DVC, since they may differ here in a last bit.
    found = measured(here, name)
    numbers = json.loads(metrics_file(dataset, name).read_bytes())
    by_seed = {int(seed): _scores(values) for seed, values in numbers.pop("seeds", {}).items()}
    metrics = _scores({key: value for key, value in numbers.items() if key not in (*found.counts, "sd")})
    log_evaluation(here, name, replace(found, metrics=metrics, by_seed=by_seed, report=report_of(dataset, name)))
    return "rebuilt" if "train" in missing else "its evaluation is added"


def _scores(row: dict[str, Any]) -> Scores:
    """Returns split → metrics from the content of metrics/D/E.json, in which the test metrics are at the top."""
    parts = {key: value for key, value in row.items() if isinstance(value, dict)}
    return {**parts, "test": {key: value for key, value in row.items() if key not in parts}}


def _messages(planned: Plan, device: str) -> Iterator[Message]:
    """Yields the messages that TrainingRun would send, but with the present as the time of each epoch.

    Args:
        planned: The plan of the experiment.
        device: As params.yaml says it: `auto` stays, because the device that was used is unknown.
    """
    name, now = planned.assembled.name, now_ms()

    def begin(settings: dict[str, Any], seed: int | None) -> Iterator[Message]:
        yield Begin(settings | {"device": device}, {REBUILT: "true"}, str(planned.summary), seed)
        history = read_history(history_file(name, seed))
        yield Epochs([Epoch(number, now, metrics) for number, metrics in enumerate(history, 1)], seed)

    def end(seed: int | None) -> Iterator[Message]:
        yield Files.of(training_of(name, seed), history_file(name, seed), seed=seed)
        yield End("FINISHED", seed=seed)

    yield from begin(planned.settings, None)
    for seed in planned.settings.get("seeds") or ():
        yield from begin(planned.with_seed(seed).settings, seed)
        yield from end(seed)
    yield from end(None)  # last: by the sha256 in it the run is found, so that a rebuild that is stopped is done again
