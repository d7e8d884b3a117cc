"""Compares a dataset's experiments (`metrics/D/` → `metrics/D.csv`); the best may become champion in MLflow.

The validation split decides if there is one. Otherwise the test split does, and its metrics then no longer tell how
good the best experiment is on unseen data.

python -m tasks.register digits
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np

from learn.comparison.gate import Candidate, Rule
from learn.comparison.limits import Costs, Limits, why_never_champion
from learn.comparison.ranking import metric_of, ranked
from learn.errors import TrackingError
from learn.evaluation.metrics import METRICS
from learn.evaluation.predictions import Predictions, read
from tasks.model_card import cards
from tasks.params import Params
from tasks.params.flatten import flatten
from tasks.stage import run_stage
from tasks.tracking.loading import LoadedModel, lacks_champion, why_champion_broken
from tasks.tracking.names import Store, store_in
from tasks.tracking.page import describe_dataset
from tasks.tracking.queries import MeasuredLatency, latencies, missing_parts, models_judged
from tasks.tracking.registry import Measured, Verdict, register_champion
from tasks.workspace.files import samples_md5, sha256_of, write_atomically
from tasks.workspace.outcome import Outcome
from tasks.workspace.paths import (
    comparison_file,
    evaluation_folder,
    metrics_file,
    models_folder,
    report_file,
    scored_file,
    state_dict_files,
    training_folder,
)
from tasks.workspace.report import DATA_KEYS, STATE_DICT_KEY, TEST_DATA_KEY

BATCH = 1000  # samples that a registered model predicts at a time

Reports = dict[str, dict[str, Any]]  # experiment → the details of its evaluation


def register(params: Params, name: str) -> Outcome:
    """Compares the experiments of a dataset and registers the best one's model, if it beats the present champion."""
    keep = {path(name, e) for e in params.experiments_of(name) for path in (metrics_file, report_file, scored_file)}
    for file in metrics_file(name, "*").parent.glob("*"):
        if file not in keep:  # it belongs to an experiment that params.yaml no longer has
            print(f"register {name}: {file} is of no experiment of {name} and was deleted")
            file.unlink()
    rows, reports = compared(params, name), reports_of(params, name)
    write_atomically(comparison_file(name), _as_csv(rows))
    if store := store_in(params):
        if broken := why_champion_broken(store, name):
            print(f"register {name}: the champion cannot be loaded: {broken}")
        complete(params, store, name, reports)
    verdict = register_best(params, name, rows, reports)
    try:
        _describe(params, name, verdict.text, reports)
    except TrackingError as error:  # the next register stage does it; what was decided must be told now
        print(f"register {name}: MLflow's page is not up to date: {error}")
    print(made := f"register {name}: {verdict.text}")
    refused = f"{made}; judged for the first time: {', '.join(verdict.refused)}" if verdict.refused else ""
    return Outcome(made, champion=made if verdict.is_new else "", refused=refused)


def _describe(params: Params, name: str, verdict: str, reports: Reports) -> None:
    """Tells MLflow's page about a dataset: its splits, what decides, and what was decided."""
    dataset = params.dataset(name)
    split, metric = dataset.split.held_out, dataset.champion.metric
    sizes = ", ".join(f"{size:,} for {part}" for part, size in dataset.sizes.items() if size)
    text = f"Samples: {sizes}. {metric} on the {split} split decides who is champion.\n\n{verdict}"
    store = store_in(params)
    if store and (judged := _models_judged(params, store, name, reports)):
        print(f"register {name}: {judged}")
        text += f"\n\n{judged[0].upper()}{judged[1:]}."
    describe_dataset(store, name, split, metric, METRICS[metric].better == "higher", text, verdict)


def _models_judged(params: Params, store: Store, name: str, reports: Reports) -> str:
    """Returns a text that says how many models the test split has measured; "" if it is fresh."""
    if not reports:
        return ""
    judged = models_judged(store, name, next(iter(reports.values()))[TEST_DATA_KEY])
    lucky = "" if params.dataset(name).split.held_out == "validation" else "; the best result may be luck"
    return f"the test split has measured {judged} models{lucky}" if judged > 1 else ""


def complete(params: Params, store: Store, name: str, reports: Reports) -> None:
    """Adds to MLflow what it lacks of a dataset's experiments, from DVC's outputs.

    MLflow lacks something if a process was killed, or if DVC restored an experiment from its cache instead of running
    it.
    """
    for experiment in missing_parts(store, name, _state_dicts(reports)):
        files, evaluated = state_dict_files(models_folder(experiment)), reports[experiment][STATE_DICT_KEY]
        if not all(file.is_file() for file in files) or sha256_of(files) != evaluated:
            print(
                f"register {name}: MLflow lacks the model of {experiment}, and {files[0]} is not what was evaluated; "
                f"next: dvc repro evaluate@{experiment}, then trackway relog"
            )
            continue
        from tasks.relog import rebuild  # here, because tasks/relog.py imports this module

        print(f"register {name}: MLflow lacks {experiment}; it is rebuilt from DVC's outputs")
        print(f"register {name}: {experiment}: {rebuild(params, store, experiment)}")


def is_complete(params: Params, name: str) -> bool:
    """Returns whether MLflow has every evaluated experiment of a dataset, and a champion that can be loaded.

    It is also True if no experiment can be champion, if one was not evaluated, or without a store. Does not import
    torch.
    """
    files = [path(name, e) for e in params.experiments_of(name) for path in (metrics_file, report_file)]
    if not (store := store_in(params)) or not all(file.is_file() for file in files):
        return True
    reports = reports_of(params, name)
    state_dicts = _state_dicts(reports)
    if missing_parts(store, name, state_dicts):
        return False
    rows, known = compared(params, name), _latencies(params, name, reports)
    best = next((row["experiment"] for row in rows if not why_not(params, name, row, reports, known)), None)
    return best is None or not lacks_champion(store, name, best, state_dicts[best])


def _state_dicts(reports: Reports) -> dict[str, str]:
    """Returns experiment → sha256 of the state_dict that was evaluated."""
    return {experiment: report[STATE_DICT_KEY] for experiment, report in reports.items()}


def reports_of(params: Params, name: str) -> Reports:
    """Returns the details of the evaluations of a dataset's experiments."""
    return {experiment: report_of(name, experiment) for experiment in params.experiments_of(name)}


def report_of(name: str, experiment: str) -> dict[str, Any]:
    """Returns the details of an experiment's evaluation, on the dataset of that name."""
    return dict(json.loads(report_file(name, experiment).read_bytes()))


def compared(params: Params, name: str) -> list[dict[str, Any]]:
    """Returns a row for each experiment of a dataset, best first by the dataset's `champion.metric`.

    A row has the experiment's name as `experiment`, and the content of its metrics file.
    """
    rows = [{"experiment": e, **json.loads(metrics_file(name, e).read_bytes())} for e in params.experiments_of(name)]
    dataset = params.dataset(name)
    return ranked(rows, dataset.split.held_out, dataset.champion.metric)


def register_best(params: Params, name: str, rows: list[dict[str, Any]], reports: Reports) -> Verdict:
    """Registers the model of the best experiment if it beats the present champion, and returns what happened.

    A model that predicts the same class for every sample is passed over, since its metric only says how common that
    class is.

    Args:
        params: The parameters.
        name: The dataset's name.
        rows: What `compared` returns.
        reports: What `reports_of` returns.
    """
    if not rows:
        return Verdict("no experiments")
    dataset = params.dataset(name)
    part = dataset.split.held_out
    if part == "test":
        print(f"register {name}: the test part decides, for there is no validation part")
    found = candidates(params, name, rows, reports)
    for each in found:
        if each.barred:
            print(f"register {name}: {each.experiment} cannot be champion: {each.barred}")
    champion = dataset.champion
    return register_champion(
        store_in(params),
        name,
        found,
        params.experiments_of(name),
        Rule(champion.require, champion.level, champion.margin, dataset.split.is_stratified(part)),
        lambda model: measured_anew(params, name, part, model),
        cards(params, name, found),
    )


def candidates(params: Params, name: str, rows: list[dict[str, Any]], reports: Reports) -> list[Candidate]:
    """Returns all experiments of a dataset as the gate needs them, also those that cannot be champion.

    Args:
        params: The parameters.
        name: The dataset's name.
        rows: What `compared` returns.
        reports: What `reports_of` returns.
    """
    dataset, found, known = params.dataset(name), [], _latencies(params, name, reports)
    for row in rows:
        report = reports[row["experiment"]]
        found.append(
            Candidate(
                row["experiment"],
                dataset.split.held_out,
                dataset.champion.metric,
                _by_part(row),
                report[STATE_DICT_KEY],
                {split: report[key] for split, key in DATA_KEYS.items() if key in report},
                read(scored_file(name, row["experiment"]), dataset.split.held_out),
                why_not(params, name, row, reports, known) or "",
            )
        )
    return found


def measured_anew(params: Params, name: str, part: str, model: LoadedModel) -> Measured | None:
    """Measures a registered model on a split of a dataset as it is now; returns None if it does not fit the data.

    A table's model does not fit if numbers are missing that it cannot fill in.

    Args:
        params: The parameters.
        name: The dataset's name.
        part: The split.
        model: The model, with what is stored with it.
    """
    import torch

    from learn.data.transformed import Info, read_raw
    from learn.training.build import build_loss
    from learn.training.meter import EpochMeter
    from learn.training.splits import load_split

    folder = training_folder(name) if part in Info.read(training_folder(name)).samples else evaluation_folder(name)
    info, about = Info.read(training_folder(name)), model.about
    columns = params.dataset(name).source.column_kinds  # a model of an older version takes what is made of them
    same_inputs = [*about.columns.items()] == [*columns.items()] if about.columns else about.shape == info.shape
    if about.classes != info.classes or not same_inputs:
        return None
    print(f"register {name}: the champion is measured anew on the {part} part, which is other data now")
    split = load_split(folder, part)
    if about.columns:
        split = replace(split, inputs=torch.from_numpy(read_raw(evaluation_folder(name), part)))
    criterion = build_loss(about.loss, about.loss_arguments or {}, about.classes)
    meter, found = EpochMeter(criterion), []
    with torch.inference_mode():
        for inputs, targets in split.batches(slice(start, start + BATCH) for start in range(0, len(split), BATCH)):
            logits = model(inputs, split.scale)
            if not logits.isfinite().all():
                return None
            meter.add(criterion(logits, targets), logits, targets)
            found.append(criterion.predict(logits).numpy())
    predicted = Predictions(split.targets.numpy(), np.concatenate(found), samples_md5(folder, part), len(info.classes))
    return Measured(predicted, None if about.loss_arguments is None else meter.metrics(part)[f"{part}/loss"])


def _latencies(params: Params, name: str, reports: Reports) -> dict[str, MeasuredLatency]:
    """Returns experiment → the latency that MLflow has, as far as it has one; nothing if no limit asks for it."""
    if not (store := store_in(params)) or params.dataset(name).champion.max_latency_ms is None:
        return {}
    return latencies(store, name, _state_dicts(reports))


def why_not(
    params: Params, name: str, row: dict[str, Any], reports: Reports, known: dict[str, MeasuredLatency]
) -> str | None:
    """Returns why an experiment cannot be champion of its dataset, even if it is the only one; None if it can."""
    dataset = params.dataset(name)
    split, champion = dataset.split.held_out, dataset.champion
    diagnosis, latency = reports[row["experiment"]]["diagnosis"], known.get(row["experiment"])
    costs = Costs(row["parameters"], *((latency.median, latency.device) if latency else ()))
    limits = Limits(champion.max_parameters, champion.max_latency_ms if params.tracking else None)
    return why_never_champion(diagnosis, split, champion.metric, metric_of(row, split, champion.metric), costs, limits)


def _by_part(row: dict[str, Any]) -> dict[str, float]:
    """Returns those of METRICS that a row has, with full names such as `test/accuracy`."""
    parts = {"validation": row.get("validation", {}), "test": row}
    return {
        f"{part}/{metric}": values[metric] for part, values in parts.items() for metric in METRICS if metric in values
    }


def _as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    if rows:
        flat = [flatten({key: value for key, value in row.items() if key != "seeds"}) for row in rows]
        columns = list(dict.fromkeys(column for row in flat for column in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
    return text.getvalue().encode()


if __name__ == "__main__":
    run_stage(register, "datasets")
