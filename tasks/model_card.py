"""Makes the model card of a registered version from params.yaml, the metrics, the report and the checks of photos.

The format is that of Hugging Face's model cards: YAML between two lines `---`, then Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from learn.comparison.gate import Candidate
from learn.data.transformed import INFO, Info
from tasks.card_parts import (
    Records,
    curves,
    data,
    load,
    metrics,
    per_class,
    settings,
    weaknesses,
    what_it_is,
    which_part_decides,
)
from tasks.params import Params
from tasks.tracking.cards import DECIDED, FENCE, Cards, Registered, escaped
from tasks.tracking.names import store_in
from tasks.tracking.queries import models_judged
from tasks.workspace.paths import (
    REPORT,
    evaluation_folder,
    metrics_file,
    report_file,
    training_folder,
    transformed_folder,
)
from tasks.workspace.report import DATA_KEYS


def cards(params: Params, dataset: str, candidates: Sequence[Candidate]) -> Cards:
    """Returns the model cards of a dataset's experiments; without the transformed data or a store there are none."""
    store = store_in(params)
    if not (store and candidates and (training_folder(dataset) / INFO).is_file()):
        return {}
    judged = models_judged(store, dataset, candidates[0].data["test"])
    return {
        (each.experiment, each.state_dict): partial(card_of, params, dataset, each.experiment, judged)
        for each in candidates
    }


def card_of(params: Params, dataset: str, experiment: str, judged: int, registered: Registered) -> str:
    """Reads what is on record of an experiment, and returns the card of its registered version.

    Args:
        params: The parameters.
        dataset: Name of the dataset.
        experiment: Name of the experiment.
        judged: Number of models that the test part has measured.
        registered: What only MLflow knows of the version.
    """
    info, checks = Info.read(training_folder(dataset)), transformed_folder(dataset) / REPORT
    folder = evaluation_folder(dataset)
    samples = info.samples | (Info.read(folder).samples if (folder / INFO).is_file() else {})
    records = Records(
        params,
        experiment,
        info,
        samples,
        json.loads(metrics_file(dataset, experiment).read_bytes()),
        json.loads(report_file(dataset, experiment).read_bytes()),
        json.loads(checks.read_bytes()) if checks.is_file() else {},
        judged,
    )
    return model_card(records, registered)


def model_card(records: Records, registered: Registered) -> str:
    """Returns a model card: front matter, then what it is, what decided, and all else in the order of its use."""
    parts = [
        what_it_is(records, registered),
        DECIDED.lstrip("\n") + escaped(registered.decision),
        which_part_decides(records),
        metrics(records),
        weaknesses(records),
        load(records, registered),
        data(records, registered),
        curves(records),
        per_class(records),
        settings(records, registered),
    ]
    return front_matter(records) + "\n" + "\n\n".join(filter(None, parts)) + "\n"


def front_matter(records: Records) -> str:
    """Returns the YAML between two lines `---`; each value is JSON, which YAML contains."""
    experiment = records.params.experiment(records.experiment)
    model, dataset = experiment.model.name, experiment.dataset
    results = []
    for part in records.parts:
        of = {"name": dataset, "type": dataset, "split": part, "revision": records.report.get(DATA_KEYS[part], "")}
        measured = [
            {"type": name, "name": f"{part} {name}", "value": value} for name, value in records.metrics(part).items()
        ]
        results.append({"task": {"type": records.task}, "dataset": of, "metrics": measured})
    values = {
        "library_name": "pytorch",
        "pipeline_tag": records.task,
        "tags": ["trackway", dataset, records.experiment, model],
        "datasets": [dataset],
        "metrics": list(records.metrics("test")),
        "model-index": [{"name": records.experiment, "results": results}],
    }
    return FENCE + "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()) + FENCE
