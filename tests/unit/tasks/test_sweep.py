"""The spaces of a sweep, and the study that keeps its trials."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from learn.errors import DataError, ParamsError, SweepError
from tasks.params import read_yaml
from tasks.sweep.check import check_space
from tasks.sweep.record import best_first, counted
from tasks.sweep.space import Choice, Span, parse, with_one_seed, with_values, without
from tasks.sweep.storage import alone, database, last_identity, no_sweep_at_work, open_sweep, rename_sweeps
from tasks.sweep.study import OUTCOME, Identity, Sweep
from tasks.sweep.trial import COMPLETE, DIVERGED, Outcome
from tests.support.project import ROOT


def test_each_kind_of_space_is_read() -> None:
    texts = [
        "a.lr=loguniform(1e-4, 1)",
        "b=[[32], null, full, 1e-3]",
        "c=int(1,5)",
        "d=uniform(-.5,2)",
        "e=logint(1,9)",
    ]
    found = {dimension.key: dimension.space for dimension in parse(texts[::-1])}
    assert found == {
        "a.lr": Span(1e-4, 1.0, whole=False, log=True),
        "b": Choice(([32], None, "full", 0.001)),
        "c": Span(1, 5, whole=True, log=False),
        "d": Span(-0.5, 2.0, whole=False, log=False),
        "e": Span(1, 9, whole=True, log=True),
    }
    assert list(found) == ["a.lr", "b", "c", "d", "e"]


# (what is given with -S, the message)
MISTAKES = [
    ("optimizer.lr", "it must be KEY=SPACE, such as 'optimizer.lr=loguniform(1e-4,1)'"),
    ("optimizer..lr=[1, 2]", "'optimizer..lr' is no key; it must be names with dots between them"),
    ("augmentation.0=[1, 2]", "'augmentation.0' is no key"),
    ("seed=int(1,3)", "seed must be the same in all trials: a lucky seed is no better setting"),
    ("dataset=[line, blobs]", "dataset must be the same in all trials: the metrics of two datasets cannot be compared"),
    ("lr=logunifrom(1,2)", "logunifrom is no space; it must be a list of choices .*; did you mean loguniform?"),
    ("lr=uniform(1)", "uniform takes two numbers, the lowest and the highest, such as uniform(1,10)"),
    ("lr=uniform(1,)", "nothing is no number, which uniform takes"),
    ("lr=uniform(0,inf)", "inf is no number, which uniform takes"),
    ("lr=uniform(0,1e999)", "1e999 is no number, which uniform takes"),
    ('lr=uniform(0,__import__("os").getpid())', "is no number, which uniform takes"),
    ("epochs=int(1,2.5)", "2.5 is no whole number, which int takes"),
    ("lr=uniform(2,1)", "2 must be less than 1"),
    ("lr=loguniform(0,1)", "0 must be greater than 0, for loguniform draws from the logarithms"),
    ("lr=0.1", "it must be a list of choices such as [32, 64], uniform(a,b), loguniform(a,b), int(a,b), logint(a,b)"),
    ("lr=[1", "this is no YAML: "),
    ("lr=[1]", "it must have two choices or more"),
    ("lr=[[1], 2, [1]]", "[1] is there twice; give each choice once"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_a_space_that_cannot_be_read_is_named_with_what_is_allowed(text: str, message: str) -> None:
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(ParamsError, match=re.escape(f"-S {text}: ") + ".*" + pattern):
        parse([text, "epochs=[1, 2]"] if "epochs" not in text else [text])


def test_all_mistakes_come_out_together() -> None:
    with pytest.raises(ParamsError) as raised:
        parse(["a=1", "b=int(1,2)", "b=int(1,3)", "c=[{lr: 1}, {lr: 2}]", "c.lr=[1, 2]"])
    assert [problem.partition(":")[0] for problem in raised.value.problems] == [
        "-S a=1",
        "-S b is given twice; give each key once",
        "-S c and -S c.lr",
    ]


SHIPPED = read_yaml(ROOT / "params.yaml")
MLP = SHIPPED["experiments"]["digits-mlp"]
# (spaces, the message): the key, the value, what is allowed, and the option
UNFIT = [
    (["optimizer.lr=uniform(-1,1)"], "optimizer.lr is -1.0; it must be > 0 (-S optimizer.lr=uniform(-1,1))"),
    (["epochs=uniform(1,3)"], "epochs is 1.0; it must be a valid integer (-S epochs=uniform(1,3))"),
    (["optimiser.lr=[1, 2]"], "optimiser is not a known key; allowed: .*; did you mean optimizer? (-S optimiser.lr="),
    (
        ["model.hiden_units=[[1], [2]]"],
        "model.hiden_units is not an argument of mlp; allowed: .*; did you mean hidden_",
    ),
    (
        ["optimizer.name=[SGD, Adamm]"],
        "optimizer.name is Adamm; it must be one of .*; did you mean Adam? (-S optimizer.",
    ),
    (
        ["optimizer.name=[SGD, Adam]", "optimizer.momentum=uniform(0,1)"],
        "momentum is not an argument of Adam; allowed: ",
    ),
    (["epochs.first=int(1,2)"], "epochs is 30, which has no keys; sweep epochs itself (-S epochs.first=int(1,2))"),
    (
        ["loss.name=[CrossEntropyLoss, L1Loss]"],
        "loss.name is L1Loss, which does not fit digits (10 classes): .* (-S loss.",
    ),
]


@pytest.mark.parametrize(("texts", "message"), UNFIT, ids=[texts[0] for texts, _ in UNFIT])
def test_a_value_that_does_not_fit_is_told_before_any_trial(texts: list[str], message: str) -> None:
    with pytest.raises(ParamsError, match="experiments.digits-mlp.*" + re.escape(message).replace(r"\.\*", ".*")):
        check_space(SHIPPED, "digits-mlp", MLP, parse(texts))


def test_spaces_that_fit_pass() -> None:
    texts = [
        "optimizer.lr=loguniform(1e-4,1)",
        "batch_size=[16, full]",
        "scheduler=[null, {name: StepLR, step_size: 9}]",
    ]
    check_space(SHIPPED, "digits-mlp", MLP, parse(texts))


def test_values_are_set_below_the_experiment_and_taken_out() -> None:
    changed = with_values(MLP, {"optimizer.lr": 0.5, "scheduler.name": "StepLR"})
    assert changed == MLP | {"optimizer": {"name": "SGD", "lr": 0.5}, "scheduler": {"name": "StepLR"}}
    assert without(changed, ["optimizer.lr", "scheduler", "early_stopping.patience"]) == MLP | {
        "optimizer": {"name": "SGD"}
    }
    assert MLP["optimizer"]["lr"] == 0.1, "the original stays as it is"


def test_of_several_seeds_the_first_is_used() -> None:
    assert with_one_seed({"seeds": [7, 8], "epochs": 1}) == {"seed": 7, "epochs": 1}
    assert with_one_seed({"seed": 7}) == {"seed": 7}


def test_a_drawn_number_has_few_digits_and_stays_in_its_span() -> None:
    span = Span(0.00012345, 0.98765, whole=False, log=True)
    assert span.value(0.0123456) == 0.01235
    assert [span.value(end) for end in span.extremes] == list(span.extremes)
    assert Span(1, 9, whole=True, log=False).value(3) == 3


# ---- the study

IDENTITY = Identity(
    "mlp", {"lr": "loguniform(1e-4,1)", "width": "[[8], [16]]"}, 0, "accuracy", "validation", {}, {}, "cpu", 1
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outcome(values: dict[str, Any]) -> Outcome:
    """Stands for a training: learning rates near 0.05 are good, and large ones diverge."""
    if values["lr"] > 0.5:
        return Outcome(DIVERGED, "the loss is nan", settings={"parameters": 10})
    accuracy = 1 - abs(values["lr"] - 0.05)
    return Outcome(COMPLETE, metrics={"accuracy": accuracy}, settings={"parameters": 10 * values["width"][0]})


def run(sweep: Sweep, times: int, measure: Callable[[dict[str, Any]], Outcome] = outcome) -> None:
    for _ in range(times):
        trial = sweep.ask()
        sweep.tell(trial, measure(sweep.values(trial)))


def test_a_sweep_goes_on_under_the_new_name_of_its_experiment(folder: Path) -> None:
    sweep = open_sweep(IDENTITY)
    run(sweep, 2)
    with alone("mlp"), pytest.raises(SweepError, match="a sweep of mlp is at work"):
        rename_sweeps("mlp", "wide")
    with alone("mlp"), pytest.raises(SweepError), no_sweep_at_work(["cnn", "mlp"]):
        pytest.fail("a sweep is at work")
    database("wide").touch()
    with pytest.raises(SweepError, match=r"wide\.db is there already, of an earlier wide; delete it"):
        rename_sweeps("mlp", "wide")
    database("wide").unlink()
    rename_sweeps("mlp", "wide")
    rename_sweeps("mlp", "wide")
    assert not database("mlp").exists()
    renamed = replace(IDENTITY, experiment="wide")
    assert last_identity("wide") == renamed
    again = open_sweep(renamed)
    assert (again.key, again.results()) == (sweep.key, sweep.results())


def test_an_interrupted_sweep_tries_what_an_uninterrupted_one_tries(folder: Path) -> None:
    whole, stopped = open_sweep(IDENTITY), open_sweep(replace(IDENTITY, experiment="other"))
    run(whole, 13)
    run(stopped, 4)
    stopped.ask()
    assert stopped.interrupt() == 1
    run(stopped, 6)
    again = open_sweep(stopped.identity)
    told = again.ask()
    told.set_user_attr(OUTCOME, asdict(outcome(again.values(told))))  # the last thing that a killed process did
    assert again.interrupt() == 1
    assert again.interrupt() == 0
    run(again, 2)
    assert [result.values for result in again.results()] == [result.values for result in whole.results()]
    assert [result.number for result in again.results()] == list(range(13))


def test_a_trial_that_is_stopped_while_others_run_leaves_them_its_number(folder: Path) -> None:
    sweep = open_sweep(IDENTITY)
    first, second = sweep.ask(), sweep.ask()
    sweep.tell(second, outcome(sweep.values(second)))
    values = sweep.values(first)
    sweep.interrupt()
    assert sweep.values(sweep.ask()) == values


def test_the_best_are_ranked_as_experiments_are(folder: Path) -> None:
    sweep = open_sweep(IDENTITY)
    run(sweep, 20)
    results = sweep.results()
    best = best_first(sweep, results)
    diverged = sum(result.values["lr"] > 0.5 for result in results)
    assert diverged
    assert len(best) == 20 - diverged
    assert best[0].outcome.metrics["accuracy"] == max(result.outcome.metrics["accuracy"] for result in best)
    assert counted(results) == f"20 trials ({diverged} diverged)"


def test_of_equally_good_trials_the_one_with_fewer_parameters_is_best(folder: Path) -> None:
    sweep = open_sweep(IDENTITY)
    run(sweep, 6, lambda values: replace(outcome({**values, "lr": 0.05}), metrics={"accuracy": 0.9}))
    assert [result.values["width"] for result in best_first(sweep, sweep.results())] == sorted(
        result.values["width"] for result in sweep.results()
    )


def test_choices_alone_are_tried_once_each(folder: Path) -> None:
    sweep = open_sweep(replace(IDENTITY, space={"lr": "[0.1, 0.2, 0.3]", "width": "[[8], [16]]"}))
    assert sweep.size == 6
    run(sweep, 6)
    assert {(result.values["lr"], result.values["width"][0]) for result in sweep.results()} == {
        (lr, width) for lr in (0.1, 0.2, 0.3) for width in (8, 16)
    }
    run(sweep, 1)
    assert len(sweep.results()) == 7
    assert open_sweep(IDENTITY).size is None


def test_without_the_metric_the_loss_prunes_in_its_own_direction(folder: Path) -> None:
    sweep = open_sweep(replace(IDENTITY, metric="f1_macro"))
    sweep.prune(epochs=2)
    for loss, goes_on in [*[(1.0, True)] * 5, (2.0, False), (0.5, True)]:
        trial = sweep.ask()
        assert sweep.report(trial, 1, {"validation/loss": loss}) is goes_on
        sweep.tell(trial, Outcome(COMPLETE, metrics={"f1_macro": 0.5}, settings={"parameters": 1}))


def test_another_space_or_other_settings_begin_a_new_study(folder: Path) -> None:
    run(open_sweep(IDENTITY), 2)
    other = replace(IDENTITY, space={"lr": "uniform(0,1)"}, versions={"data": "1"})
    assert open_sweep(other).results() == []
    assert last_identity("mlp") == other
    assert other.changes(IDENTITY) == ["the space", "the data or the code"]
    assert len(open_sweep(IDENTITY).results()) == 2
    assert last_identity("mlp") == IDENTITY
    assert last_identity("cnn") is None


def test_one_process_at_a_time_works_on_a_sweep(folder: Path) -> None:
    with (
        alone("mlp"),
        pytest.raises(SweepError, match="a sweep of mlp is at work in this folder; wait until it has ended"),
        alone("mlp"),
    ):
        pass


def test_a_damaged_database_is_named(folder: Path) -> None:
    database("mlp").parent.mkdir(parents=True)
    database("mlp").write_text("no database")
    with pytest.raises(
        DataError, match=r"mlruns/sweeps/mlp.db cannot be used: file is not a database; if it is damaged"
    ):
        last_identity("mlp")
