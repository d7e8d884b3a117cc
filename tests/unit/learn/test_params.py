from __future__ import annotations

import re
from pathlib import Path

import pytest

from learn.errors import ParamsError
from tasks.params import load_params
from tasks.params.preflight import check
from tests.support.project import ROOT

SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")


def written(folder: Path, *replacements: tuple[str, str]) -> Path:
    text = SHIPPED
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_file_passes_every_check() -> None:
    params = check(ROOT / "params.yaml")
    assert params.experiments["digits-mlp"].optimizer.arguments == {"lr": 0.1}
    assert params.datasets["digits"].sizes == {"train": 1257, "validation": 180, "test": 360}


# (what is written instead, the message): key path, value, what is allowed
MISTAKES = [
    ("train: 86400", "train: 0", r"flow.timeouts.train is 0; it must be >= 1"),
    ("train: 86400", "trian: 1", r"flow.timeouts.trian is not a known key; allowed: transform, train; did you mean"),
    ("paused: true", "pause: true", r"flow.schedules.0.pause is not a known key; allowed: deployment, cron, interval"),
    ("deployment: pipeline", "deployment: pipelin", r"flow.schedules.0.deployment is .pipelin.; it must be .pipeline."),
    ("lr: 0.01", "lr: -0.1", "experiments.line-parameters.optimizer.lr is -0.1; it must be > 0"),
    ("lr: 0.01", "lr: 0", "experiments.line-parameters.optimizer.lr is 0; it must be > 0"),
    ("lr: 0.01", "lr: .nan", "experiments.line-parameters.optimizer.lr is NaN; it must be a finite number"),
    ("lr: 0.01", "lr: fast", 'experiments.line-parameters.optimizer.lr is "fast"; it must be a valid number'),
    ("epochs: 100", "epochs: 0", "experiments.line-parameters.epochs is 0; it must be >= 1"),
    ("epochs: 100", "epochs: '3'", 'experiments.line-parameters.epochs is "3"; it must be a valid integer'),
    ("epochs: 100", "epoch: 100", "experiments.line-parameters.epochs is missing; it must be given"),
    ("epochs: 100", "epoch: 100", "line-parameters.epoch is not a known key; allowed: .*; did you mean epochs?"),
    ("full\n    seed: 42", "full", "experiments.line-parameters: either seed or seeds must be given, and not both"),
    ("full\n", "full\n    seeds: [1, 2]\n", "experiments.line-parameters: either seed or seeds must be given, and not"),
    ("full\n    seed: 42", "full\n    seeds: [42]", "line-parameters.seeds is .42.; it must have at least two seeds"),
    (
        "full\n    seed: 42",
        "full\n    seeds: [7, 7]",
        "line-parameters.seeds is .7, 7.; 7 is there twice",
    ),
    ("batch_size: 32", "batch_size: 0", "digits-mlp.batch_size is 0; it must be a whole number >= 1, or full"),
    ("full\n", "full\n    fraction: 0\n", "experiments.line-parameters.fraction is 0; it must be > 0"),
    ("full\n", "full\n    fraction: 1.5\n", "experiments.line-parameters.fraction is 1.5; it must be <= 1"),
    (
        "batch_size: 32\n",
        "batch_size: 32\n    fraction: 0.004\n",
        "experiments.digits-mlp.fraction is 0.004: of 1,257 training samples it leaves 5, fewer than the 10 classes of "
        "digits; set at least 0.01",
    ),
    ("noise: 0.03", "noize: 0.03", "datasets.circles.source.noize is not a known key; .*; did you mean noise?"),
    ("noise: 0.03", "noise: -1", "datasets.circles.source: noise is -1.0; it must be >= 0"),
    ("name: circles", "name: circels", "datasets.circles.source.name is circels; it must be one of line, circles"),
    ("{name: digits}", "{}", "datasets.digits.source.name is missing; it must be one of line, circles"),
    ("dataset: line\n", "dataset: lime\n", "line-parameters.dataset is lime; it must be one of .*; did you mean line?"),
    ("test: 0.2", "test: 1.2", "datasets.line.split.test is 1.2; it must be a fraction between 0 and 1, or official"),
    ("test: 0.2", "test: 0.99", "datasets.line.split.test is 0.99: it leaves the train part empty .*50 samples"),
    ("test: 0.2", "test: official", "datasets.line.split.test is official, but line has no official test set"),
    ("shuffle: false", "shuffle: false, stratify: true", "datasets.line.split: stratify: true needs shuffle: true"),
    (
        "optimizer: {name: SGD, lr: 0.1}\n    epochs: 30",
        "optimizer: {name: LBFGS, lr: 0.1}\n    devices: 2\n    epochs: 30",
        "experiments.digits-mlp: devices is 2, but LBFGS decides by losses that devices do not share; it must be 1",
    ),
    ("transform: {}", "transform: {resize: 3}", "datasets.line.transform.resize is 3, but line has no images"),
    ("transform: {}", "transform: {crop: 3}", "datasets.line.transform.crop is 3, but line has no photo files"),
    (
        "transform: {}",
        "transform: {interpolation: bicubic}",
        "datasets.line.transform.interpolation is bicubic, but line has no photo files",
    ),
    ("transform: {}", "transform: {impute: mean}", "datasets.line.transform.impute is mean, but line is no table"),
    ("transform: {}", "transform: {one_hot: true}", "datasets.line.transform.one_hot is true, but line is no table"),
    ("metric: mae", "metric: accuracy", "datasets.line.champion.metric is accuracy; it must be one of loss, mae"),
    ("device: auto", "device: gpu", 'device is "gpu"; it must be one of auto, cpu, cuda, cuda:INDEX, mps'),
    ("threads: 1", "threads: 0", "threads is 0; it must be >= 1"),
    ("  blobs:\n", "  circles:\n", "params.yaml, line 26, column 3 is not YAML: found duplicate key"),
    ("datasets:", "datasets: [", "params.yaml, line 17, column 11 is not YAML: expected"),
    ("  line:\n", "  ../line:\n", "datasets.../line: a name must be letters, digits, - and _"),
    ("device:", "project: my.team\ndevice:", "project: a name must be letters, digits, - and _; not 'my.team'"),
    (
        "flow:",
        "flow:\n  resources: {train: {memory: 8GB}}",
        'flow.resources.train.memory is "8GB"; it must be a whole number with MiB or GiB, such as 8GiB',
    ),
    ("flow:", "flow:\n  address: HOST:10001", 'flow.address is "HOST:10001"; it must be .*, such as ray://HOST:10001'),
    ("device:", "project: 7\ndevice:", "project is 7; it must be a valid string"),
    (
        "sqlite:///mlruns/mlflow.db",
        "mlruns",
        "tracking is .mlruns.; it must be null or the address of an MLflow store",
    ),
    # what only torch can tell
    ("CrossEntropyLoss", "NLLLoss", "it takes log-probabilities .*, and the model gives logits; .*be CrossEntropyLoss"),
    ("CrossEntropyLoss", "CrossEntropyLoss, weight: [1.0, 2.0]", "which does not fit blobs .*; look at its weight"),
    ("{name: line}", "{name: lines}", "line-parameters.model.name is lines; it must be one of .*; did you mean line?"),
    ("L1Loss", "L1los", "line-parameters.loss.name is L1los; it must be one of .*; did you mean L1Loss?"),
    ("name: SGD", "name: SDG", "line-parameters.optimizer.name is SDG; it must be one of .*; did you mean SGD?"),
    ("lr: 0.01", "lr: 0.01, momentm: 1", "optimizer.momentm is not an argument of SGD; .*; did you mean momentum?"),
    ("lr: 0.01", "lr: 0.01, momentum: -1", "optimizer: SGD refuses .*Invalid momentum value"),
    ("[5]", "5", "experiments.circles-linear.model.hidden_units is 5; it must be a valid array"),
    ("[5]", "[0]", r"circles-linear.model: mlp refuses .*hidden_units \[0\] must all be >= 1"),
    ("hidden_units: [5], ", "", "experiments.circles-linear.model.hidden_units is missing; mlp needs hidden_units"),
    ("activation: ReLU", "activation: Relu", "activation 'Relu' is no activation of torch.nn"),
    ("L1Loss", "CrossEntropyLoss", "loss.name is CrossEntropyLoss, which does not fit line .*L1Loss or MSELoss"),
    ("CrossEntropyLoss", "MSELoss", r"loss.name is MSELoss, which does not fit blobs \(4 classes\)"),
    ("L1Loss", "L1Loss, reduction: none", "loss.reduction is none; it must be mean or sum"),
    ("{name: line}", "{name: tiny_vgg, hidden_units: 4}", r"line-parameters.model: tiny_vgg .*inputs are \(1,\)"),
    (
        "seed: 42\n",
        "seed: 42\n    scheduler: {name: StepLR}\n",
        "scheduler.step_size is missing; StepLR needs step_size",
    ),
    (
        "seed: 42\n  line-linear",
        "seed: 42\n    scheduler: {name: ReduceLROnPlateau, interval: step}\n  line-linear",
        "line-parameters.scheduler: interval is step, but ReduceLROnPlateau looks at the loss after an epoch",
    ),
    (
        "batch_size: 32\n",
        "batch_size: 32\n    scheduler: {name: OneCycleLR, max_lr: 1.0, total_steps: 1199, interval: step}\n",
        r"fails after step 1200 of 1200: .*it is stepped after each of 40 batches an epoch: .*must be 1200 or more",
    ),
    (
        "batch_size: 32\n",
        "batch_size: 32\n    scheduler: {name: SequentialLR, schedulers: [{name: StepLR}], milestones: []}\n",
        "digits-mlp.scheduler.schedulers.0.step_size is missing; StepLR needs step_size",
    ),
    ("lr: 0.1}", "lr: 0.1, no_decay: norms_and_biases}", "optimizer.no_decay is norms_and_biases, but SGD has no"),
    ("lr: 0.1}", "lr: 0.1, no_decay: norms}", "optimizer.no_decay is .norms.; it must be .norms_and_biases."),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES, ids=[new.strip() for _, new, _ in MISTAKES])
def test_a_mistake_is_named_with_key_value_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = written(tmp_path, (old, new))
    with pytest.raises(ParamsError) as caught:
        check(path)
    pattern = message.replace("?", r"\?").replace("[5]", r"\[5\]")
    assert re.search(pattern, str(caught.value)), str(caught.value)
    assert str(path) in str(caught.value)


def test_mistakes_of_all_kinds_are_reported_together(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        ("lr: 0.01", "lr: -1"),
        ("epochs: 1000", "epochs: 0"),
        ("dataset: circles", "dataset: cirles"),
        ("CrossEntropyLoss", "CrossEntropyLos"),
        ("{name: mlp, hidden_units: [64]", "{name: mlp, hidden_units: 64"),
    )
    with pytest.raises(ParamsError) as caught:
        check(path)
    assert len(caught.value.problems) == 5, str(caught.value)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="is not here; run this in the project's folder"):
        load_params(tmp_path / "params.yaml")


def test_a_dataset_that_no_experiment_uses_is_refused(tmp_path: Path) -> None:
    start = SHIPPED.index("  blobs-linear:")
    end = SHIPPED.index("  # Chapter 3 in small")
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED[:start] + SHIPPED[end:], encoding="utf-8")
    with pytest.raises(ParamsError, match=r"datasets.blobs is used by no experiment"):
        load_params(path)
