"""Model cards from records made for these tests."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from ruamel.yaml import YAML

from learn.data.transformed import Info
from tasks.card_parts import Records
from tasks.model_card import model_card
from tasks.params import load_params
from tasks.tracking.cards import CUT, MOST, Registered, description, escaped, with_decision
from tasks.tracking.tags import COMMIT, DATA_MD5, DIRTY
from tasks.workspace.report import TEST_DATA_KEY, VALIDATION_DATA_KEY
from tests.support.project import ROOT

PARAMS = load_params(ROOT / "params.yaml")
TAGS = {DATA_MD5: "36d2.dir", COMMIT: "ad6a09", DIRTY: "false"}
DIGITS = Registered("digits", "3", "digits-mlp is champion (version 3), chosen by hand: <b>smaller</b>|_fast_", TAGS)
CLASSES = ("cat", "dog", "a|b<i>")


def f1(value: float, support: int) -> dict[str, float]:
    return {"precision": 0.5, "recall": 0.25, "f1": value, "support": support}


RECORDS = Records(
    PARAMS,
    "digits-mlp",
    Info((1, 8, 8), CLASSES, 16.0, {"train": 1257, "validation": 180}),
    {"train": 1257, "validation": 180, "test": 360},
    {
        "loss": 0.15, "accuracy": 0.95, "accuracy_batch_mean": 0.951, "parameters": 4810, "epochs": 30,
        "validation": {"loss": 0.127, "accuracy": 0.9555},
    },
    {
        TEST_DATA_KEY: "4773", VALIDATION_DATA_KEY: "0b71",
        "diagnosis": {"kind": "settled", "summary": "settled", "text": "settled: the loss settled"},
        "intervals": {"validation": {"accuracy": [0.914, 0.977]}, "test": {"accuracy": [0.922, 0.968]}},
        "per_class": {"cat": f1(0.9, 30), "dog": f1(1.0, 10), "a|b<i>": f1(0.4, 5)},
        "confusion_matrix": [[27, 0, 3], [0, 10, 0], [1, 0, 4]],
    },
    {},
    12,
)  # fmt: skip
LINE = Records(
    PARAMS,
    "line-linear",
    Info((1,), (), 1.0, {"train": 40, "test": 10}),
    {"train": 40, "test": 10},
    {"loss": 0.0003, "mae": 0.0003, "parameters": 2, "epochs": 1000},
    {TEST_DATA_KEY: "c518", "diagnosis": {"text": "settled"}, "intervals": {"test": {"mae": [0.0002, 0.0004]}}},
    {},
    1,
)


def section(card: str, title: str) -> str:
    found = re.search(rf"^## {title}\n\n(.*?)(?=\n\n## |\n\Z)", card, re.DOTALL | re.MULTILINE)
    assert found, card
    return found[1]


def test_it_begins_with_what_the_model_is() -> None:
    assert description(model_card(RECORDS, DIGITS)).startswith(
        "# digits-mlp\n\nVersion 3 of the registered model digits. It tells 3 classes apart (cat, dog, "
        "a&#124;b&lt;i&gt;), from inputs of the shape (1, 8, 8). The model mlp with 4,810 parameters was trained for "
        "30 epochs with CrossEntropyLoss on the dataset digits."
    )


def test_its_front_matter_is_that_of_hugging_face() -> None:
    begin, front, _ = model_card(RECORDS, DIGITS).split("---\n", 2)
    assert not begin
    found = YAML(typ="safe").load(front)
    assert found["pipeline_tag"] == "image-classification"
    assert found["metrics"] == ["loss", "accuracy"]
    (index,) = found["model-index"]
    assert index["name"] == "digits-mlp"
    assert [result["dataset"]["split"] for result in index["results"]] == ["validation", "test"]
    assert index["results"][1]["dataset"]["revision"] == "4773"
    assert {"type": "accuracy", "name": "test accuracy", "value": 0.95} in index["results"][1]["metrics"]


def test_metrics_have_intervals_on_each_part() -> None:
    lines = section(model_card(RECORDS, DIGITS), "Metrics").splitlines()
    assert "| metric | validation | test |" in lines
    assert "| accuracy | 0.9555 (0.914 to 0.977) | 0.95 (0.922 to 0.968) |" in lines
    assert "| loss | 0.127 | 0.15 |" in lines
    assert not any("batch_mean" in line for line in lines)


def test_it_says_how_many_models_the_test_part_has_measured() -> None:
    assert section(model_card(RECORDS, DIGITS), "Metrics").endswith("\n\nThe test part has measured 12 models.")
    assert "The test part has measured this model only." in model_card(LINE, replace(DIGITS, model="line"))


def test_over_several_seeds_they_have_their_spread_and_the_seed_that_is_kept() -> None:
    numbers = RECORDS.numbers | {
        "seeds": {"42": {}, "43": {}, "44": {}}, "sd": {"accuracy": 0.004, "validation": {"accuracy": 0.0061}},
    }  # fmt: skip
    card = model_card(replace(RECORDS, numbers=numbers, report=RECORDS.report | {"chosen_seed": 43}), DIGITS)
    text = section(card, "Metrics")
    assert "| accuracy | 0.9555 ± 0.0061 (0.914 to 0.977) | 0.95 ± 0.004 (0.922 to 0.968) |" in text
    assert "means over 3 seeds (42, 43, 44)" in text
    assert "that of seed 43, which has the lowest validation loss" in text


def test_its_weaknesses_are_the_worst_classes_and_the_most_confused_pairs() -> None:
    assert section(model_card(RECORDS, DIGITS), "Known weaknesses").splitlines() == [
        "On the test part:",
        "",
        "- a&#124;b&lt;i&gt;: F1 0.400; 25% of its 5 samples are found, 50% of what is called so is right",
        "- cat: F1 0.900; 25% of its 30 samples are found, 50% of what is called so is right",
        "- cat is taken for a&#124;b&lt;i&gt;: 3 of 30 samples",
        "- a&#124;b&lt;i&gt; is taken for cat: 1 of 5 samples",
    ]
    perfect = {"per_class": {"cat": f1(1.0, 3)}, "confusion_matrix": [[3]]}
    card = model_card(replace(RECORDS, report=RECORDS.report | perfect), DIGITS)
    assert section(card, "Known weaknesses").endswith("No sample is in a wrong class.")


def test_it_says_which_part_decides() -> None:
    with_validation = section(model_card(RECORDS, DIGITS), "What decided")
    assert with_validation.endswith("on the validation part; the test part is only reported.")
    without = section(model_card(LINE, replace(DIGITS, model="line")), "What decided")
    assert "by mae on the test part, for there is no validation part" in without


def test_a_regression_has_no_classes() -> None:
    card = model_card(LINE, replace(DIGITS, model="line"))
    assert "It predicts a number, from inputs of the shape (1,)." in card
    assert 'pipeline_tag: "tabular-regression"' in card
    assert "class" not in section(card, "How to load it")
    assert "## Known weaknesses" not in card
    assert "## Each class" not in card


def test_data_has_sizes_versions_and_what_the_checks_found() -> None:
    photos: dict[str, Any] = {"problems": [{"kind": "duplicate", "text": "2 photos are in test and also in train"}]}
    text = section(model_card(replace(RECORDS, checks=photos), DIGITS), "Data")
    for line in ("| train | 1,257 | – |", "| validation | 180 | 0b71 |", "| test | 360 | 4773 |"):
        assert line in text.splitlines()
    assert "DVC's md5 of the training data is 36d2.dir." in text
    assert "split.test 0.2" in text
    assert "The checks of the data found:\n\n- duplicate: 2 photos are in test and also in train" in text
    assert "found nothing" in section(model_card(replace(RECORDS, checks={"problems": []}), DIGITS), "Data")
    assert "checks" not in section(model_card(RECORDS, DIGITS), "Data")


def test_settings_have_the_version_of_the_code() -> None:
    text = section(model_card(RECORDS, DIGITS), "Settings")
    assert "| optimizer.lr | 0.1 |" in text
    assert "| model.hidden\\_units | \\[64\\] |" in text
    assert text.endswith("The code is that of git's commit ad6a09.")
    dirty = model_card(RECORDS, replace(DIGITS, tags=TAGS | {DIRTY: "true"}))
    assert section(dirty, "Settings").endswith("commit ad6a09, and the run's artifact git.diff, a patch.")


@pytest.mark.parametrize("text", ["a|b", "<script>", "*x* _y_ `z` [u](v) ~w~", "two\nlines", "&lt;", "\\"])
def test_what_is_escaped_has_no_markdown_and_no_html(text: str) -> None:
    assert not re.search(r"[<>|\n]|&(?!\w+;|#124;)|(?<!\\)[*_`~\[\]]", escaped(text))


def test_the_decision_can_be_replaced_alone() -> None:
    card = model_card(RECORDS, DIGITS)
    changed = with_decision(card, "it was rolled back")
    assert "&lt;b&gt;smaller&lt;/b&gt;&#124;\\_fast\\_" in card
    assert changed == model_card(RECORDS, replace(DIGITS, decision="it was rolled back"))


def test_a_description_fits_into_mlflow_s_database() -> None:
    short, many = model_card(RECORDS, DIGITS), {f"class {number}": f1(0.9, 30) for number in range(200)}
    assert description(short) == short.split("---\n", 2)[2].strip()
    card = model_card(replace(RECORDS, report=RECORDS.report | {"per_class": many, "confusion_matrix": []}), DIGITS)
    assert len(card) > MOST
    cut = description(card)
    assert len(cut) <= MOST
    assert cut.endswith(CUT)
    for title in ("What decided", "Metrics", "Known weaknesses", "How to load it", "Data", "Curves", "Settings"):
        assert f"\n## {title}\n" in cut
    assert "## Each class" not in cut
