"""The parts of a model card, each from what is on record; model_card.py puts them together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from learn.data.transformed import Info
from tasks.params import Params
from tasks.params.flatten import flatten
from tasks.tracking.address import address
from tasks.tracking.cards import Registered, escaped
from tasks.tracking.tags import COMMIT, DATA_MD5, DIFF, DIRTY
from tasks.workspace.report import DATA_KEYS

WORST = 3  # number of classes and of pairs of classes that are named as weaknesses
CLASSES = 20  # largest number of classes that the first sentence names
COLUMNS = 20  # most columns of a table that are named
COUNTS = ("parameters", "epochs")  # numbers in metrics/D/E.json that are no metrics


@dataclass(frozen=True)
class Records:
    """What is on record of an experiment that was evaluated."""

    params: Params
    experiment: str
    info: Info  # of the training data
    samples: dict[str, int]  # split → number of samples
    numbers: dict[str, Any]  # content of metrics/D/E.json
    report: dict[str, Any]  # content of metrics/D/E.report.json
    checks: dict[str, Any]  # what the checks of photos or of a table found; {} for other data
    judged: int  # number of models that the test part has measured

    @property
    def task(self) -> str:
        """Hugging Face's name of the task."""
        kind = "classification" if self.info.classes else "regression"
        return f"{'image' if len(self.info.shape) == 3 else 'tabular'}-{kind}"

    @property
    def parts(self) -> list[str]:
        """The splits that were measured, first the one that decides."""
        return list(dict.fromkeys([self.info.held_out, "test"]))

    def metrics(self, part: str, values: dict[str, Any] | None = None) -> dict[str, float]:
        """Returns metric → value on a split; without what only compares with the course."""
        values = self.numbers if values is None else values
        found = values if part == "test" else values.get(part, {})
        return {
            name: value
            for name, value in found.items()
            if not isinstance(value, dict) and name not in COUNTS and not name.endswith("_batch_mean")
        }


def what_it_is(records: Records, registered: Registered) -> str:
    """Returns the title, and what the model does, is and was trained on."""
    experiment, classes = records.params.experiment(records.experiment), records.info.classes
    named = f" ({', '.join(map(escaped, classes[:CLASSES]))}{', …' if len(classes) > CLASSES else ''})"
    does = f"tells {len(classes)} classes apart{named}" if classes else "predicts a number"
    model = f"{escaped(experiment.model.name)} with {records.numbers['parameters']:,} parameters"
    columns = list(records.params.dataset(experiment.dataset).source.column_kinds)
    inputs = f"inputs of the shape {records.info.shape}"
    if columns:
        shown = ", ".join(map(escaped, columns[:COLUMNS]))
        inputs = f"{len(columns)} columns of a table: {shown}{', …' if len(columns) > COLUMNS else ''}"
    return (
        f"# {escaped(records.experiment)}\n\n"
        f"Version {registered.version} of the registered model {escaped(registered.model)}. It {does}, from "
        f"{inputs}. The model {model} was trained for {records.numbers['epochs']:,} epochs with "
        f"{escaped(experiment.loss.name)} on the dataset {escaped(experiment.dataset)}."
    )


def which_part_decides(records: Records) -> str:
    """Returns which metric on which split decides, and what this means for the test metrics."""
    metric = escaped(records.params.dataset(records.params.experiment(records.experiment).dataset).champion.metric)
    if records.info.held_out == "validation":
        return f"Models are compared by {metric} on the validation part; the test part is only reported."
    return (
        f"Models are compared by {metric} on the test part, for there is no validation part. So the test metrics of "
        "the best one may be a little better than those on new data."
    )


def metrics(records: Records) -> str:
    """Returns a table of all metrics on each split with their intervals; over several seeds, with their spread."""
    parts = records.parts
    rows = [
        [escaped(name), *(_value(records, part, name) for part in parts)]
        for name in dict.fromkeys(name for part in parts for name in records.metrics(part))
    ]
    measured = "this model only" if records.judged < 2 else f"{records.judged:,} models"
    text = "## Metrics\n\nIn brackets is the 95 % interval.\n\n" + _table(["metric", *parts], rows)
    text += f"\n\nThe test part has measured {measured}."
    if seeds := records.numbers.get("seeds"):
        text += (
            f"\n\nThese are means over {len(seeds)} seeds ({', '.join(seeds)}), ± their standard deviation. The model "
            f"is that of seed {records.report.get('chosen_seed')}, which has the lowest {records.info.held_out} loss."
        )
    return text


def _value(records: Records, part: str, name: str) -> str:
    value = records.metrics(part).get(name)
    if value is None:
        return "–"
    spread = records.metrics(part, records.numbers.get("sd", {})).get(name)
    ends = records.report.get("intervals", {}).get(part, {}).get(name)
    return (
        f"{value:.4g}"
        + (f" ± {spread:.2g}" if spread is not None else "")
        + (f" ({ends[0]:.4g} to {ends[1]:.4g})" if ends else "")
    )


def weaknesses(records: Records) -> str:
    """Returns the classes with the lowest F1, and the pairs of classes that are most often confused."""
    classes, matrix = records.report.get("per_class", {}), records.report.get("confusion_matrix", [])
    if not classes:
        return ""
    worst = sorted((each for each in classes.items() if each[1]["f1"] < 1), key=lambda each: each[1]["f1"])[:WORST]
    lines = [
        f"- {escaped(name)}: F1 {values['f1']:.3f}; {values['recall']:.0%} of its {values['support']:,} samples are "
        f"found, {values['precision']:.0%} of what is called so is right"
        for name, values in worst
    ]
    lines += [
        f"- {escaped(actual)} is taken for {escaped(taken)}: {count:,} of {total:,} samples"
        for count, total, actual, taken in _confused(list(classes), matrix)[:WORST]
    ]
    return "## Known weaknesses\n\nOn the test part:\n\n" + ("\n".join(lines) or "No sample is in a wrong class.")


def _confused(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[tuple[int, int, str, str]]:
    """Returns (count, samples of the class, class, the class it was taken for), the largest count first."""
    found = [
        (count, sum(row), classes[actual], classes[taken])
        for actual, row in enumerate(matrix)
        for taken, count in enumerate(row)
        if count and actual != taken
    ]
    return sorted(found, key=lambda each: -each[0])


def load(records: Records, registered: Registered) -> str:
    """Returns code that loads the model and predicts."""
    uri = f"models:/{registered.model}/{registered.version}"
    store = address(records.params.tracking or "")
    where = "  # in the project's folder" if store.file else ""
    code = [
        "import mlflow",
        "",
        f"mlflow.set_tracking_uri({json.dumps(store.shown)}){where}",
        f"model = mlflow.pyfunc.load_model({json.dumps(uri)})",
        "print(model.metadata.signature)",
        "print(model.predict(model.input_example))  # samples of the test part, as they are stored",
    ]
    return "## How to load it\n\n```python\n" + "\n".join(code) + "\n```\n\nIt needs mlflow, torch and numpy."


def data(records: Records, registered: Registered) -> str:
    """Returns the sizes and versions of the splits, the dataset's settings, and what the checks found."""
    rows = [
        [part, f"{records.samples[part]:,}", records.report.get(DATA_KEYS.get(part, ""), "–")]
        for part in ("train", "validation", "test")
        if part in records.samples
    ]
    experiment = records.params.experiment(records.experiment)
    dataset = records.params.dataset(experiment.dataset).model_dump(mode="json")
    shaping = flatten({key: dataset[key] for key in ("source", "split", "transform")})
    training, problems = registered.tags.get(DATA_MD5), records.checks.get("problems", [])
    found = [f"- {escaped(problem['kind'])}: {escaped(problem['text'])}" for problem in problems]
    checks = (
        "The checks of the data found:\n\n" + "\n".join(found) if found else "The checks of the data found nothing."
    )
    texts = [
        "## Data",
        _table(["part", "samples", "md5 of the samples"], rows),
        f"It was trained on {100 * experiment.fraction:g} % of the train part." if experiment.fraction < 1 else "",
        f"DVC's md5 of the training data is {escaped(training)}." if training else "",
        f"Settings of the dataset: {', '.join(f'{escaped(key)} {_as_text(value)}' for key, value in shaping.items())}.",
        checks if records.checks else "",
    ]
    return "\n\n".join(filter(None, texts))


def curves(records: Records) -> str:
    """Returns what the loss curves show."""
    return f"## Curves\n\n{escaped(records.report['diagnosis']['text'])}"


def per_class(records: Records) -> str:
    """Returns a table of each class; "" for regression."""
    names = ("precision", "recall", "f1")
    rows = [
        [escaped(name), *(f"{values[key]:.3f}" for key in names), f"{values['support']:,}"]
        for name, values in records.report.get("per_class", {}).items()
    ]
    return "## Each class on the test part\n\n" + _table(["class", *names, "samples"], rows) if rows else ""


def settings(records: Records, registered: Registered) -> str:
    """Returns a table of the experiment's settings, and the version of the code."""
    flat = flatten(records.params.experiment(records.experiment).model_dump(mode="json"))
    table = _table(["setting", "value"], [[escaped(key), _as_text(value)] for key, value in flat.items()])
    commit, dirty = registered.tags.get(COMMIT), registered.tags.get(DIRTY) == "true"
    more = f", and the run's artifact {escaped(DIFF)}, a patch" if dirty else ""
    code = f"\n\nThe code is that of git's commit {escaped(commit)}{more}." if commit else ""
    return f"## Settings\n\n{table}{code}"


def _as_text(value: Any) -> str:
    return escaped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown; the cells are escaped already."""
    return "\n".join(f"| {' | '.join(row)} |" for row in ([*head], ["---"] * len(head), *rows))
