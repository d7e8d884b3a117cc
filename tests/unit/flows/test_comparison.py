"""Which experiment is best, and may that be chance: gathered from files, and shown as a page, Markdown or a table."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from flows.reports.comparison import words
from flows.reports.comparison.changes import Record, State, record_from, record_of
from flows.reports.comparison.changes import changes as since
from flows.reports.comparison.columns import columns, differing
from flows.reports.comparison.command import chosen, collected, content_of
from flows.reports.comparison.curves import MOST_EPOCHS, charts
from flows.reports.comparison.gather import MOST_COMPARED, MOST_DRAWN, gather
from flows.reports.comparison.last import fingerprint, last_of, remember
from flows.reports.comparison.markdown import escaped, markdown
from flows.reports.comparison.page import forest, page, recalls
from flows.reports.comparison.records import Changes, Curve, Fits, Pictures, Report
from flows.reports.comparison.svg import linear_ticks, logarithmic_ticks
from flows.reports.comparison.terminal import terminal
from flows.reports.comparison.tradeoff import efficient, tradeoff
from flows.reports.results import results
from learn.errors import DataError, ParamsError
from learn.evaluation.predictions import Predictions, as_file
from tasks.params import Params
from tasks.workspace.files import write_result
from tasks.workspace.git import head
from tasks.workspace.paths import (
    evaluation_folder,
    history_file,
    metrics_file,
    report_file,
    scored_file,
)
from tests.support.outputs import experiment, params_of, predicted, write_history, write_outputs

HOSTILE = '<img src=x onerror="alert(1)">|`[x](javascript:alert(1))'
CURVE = [2.0, 1.0, 0.5]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def digits(name: str, wrong: int, seed: int = 0) -> None:
    """Writes the outputs of an experiment of digits that is wrong for so many of 180 validation samples."""
    splits = {"validation": predicted("digits", 180, wrong, seed), "test": predicted("digits", 360, 2 * wrong, seed)}
    write_outputs(name, "digits", splits, CURVE)


def two() -> Params:
    """A good and a bad experiment of digits."""
    digits("good", 4)
    digits("bad", 40, seed=1)
    return params_of(
        {"bad": experiment("digits"), "good": experiment("digits", optimizer={"name": "Adam", "lr": 0.01})}
    )


def report_of(params: Params, dataset: str = "digits", **options: Any) -> Report:
    return gather(params, dataset, params.experiments_of(dataset), results(params)[0], **options)


def shown(report: Report, width: int = 140) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(terminal(report, width))
    return capture.get()


def test_the_best_stands_first_and_the_other_is_worse_by_more_than_chance() -> None:
    report = report_of(two())
    best, other = report.entries
    assert (best.name, other.name) == ("good", "bad")
    assert best.difference is None
    assert other.difference
    assert other.difference.value == pytest.approx(-36 / 180)
    assert other.difference.p < 0.001
    assert other.difference.is_separable
    assert other.difference.interval
    assert other.difference.interval[0] < -0.2 < other.difference.interval[1] < 0
    assert "good has the best validation accuracy: 97.78%" in words.leader(report)
    assert words.others(report) == "bad is worse by more than chance explains."


def test_a_small_difference_is_marked_in_every_form() -> None:
    params = two()
    digits("bad", 6, seed=1)
    report = report_of(params)
    assert report.entries[1].difference
    assert not report.entries[1].difference.is_separable
    assert "Not separable from it: bad (p = " in words.others(report)
    assert all("not separable" in form for form in (markdown([report]), page([report]).decode()))
    assert re.search(r"bad .* ≈ best", shown(report))


def with_speeds(params: Params, **latencies: float) -> Report:
    """The report of digits with a latency, in milliseconds, of each experiment."""
    rows = results(params)[0]
    for row in rows:
        median = latencies[row["experiment"]]
        row |= {"latency": median, "latency_p95": 2 * median, "throughput": 9000.0, "latency_device": "cpu, 1 thread"}
    return gather(params, "digits", params.experiments_of("digits"), rows)


def test_what_a_model_is_worth_stands_beside_what_it_costs() -> None:
    params = two()
    assert "Worth and cost" not in page([report_of(params)]).decode(), "without MLflow no latency is known"
    for latencies, said, front in (
        ({"good": 3.0, "bad": 0.5}, "No other model is both faster and better than bad or good.", ["bad", "good"]),
        ({"good": 0.5, "bad": 3.0}, "good is both the fastest and the best in validation accuracy.", ["good"]),
        ({"good": 0.5, "bad": 0.5}, "good is both the fastest and the best in validation accuracy.", ["good"]),
    ):
        report = with_speeds(params, **latencies)
        assert [entry.name for entry in efficient(report)] == front
        text = page([report]).decode()
        assert text.count('class="dot"') == 2
        assert said in text
        assert escaped(said) in markdown([report])
        fast = latencies["good"]
        assert f"| {fast:.3g} | {2 * fast:.3g} | 9,000 | cpu, 1 thread |" in markdown([report])


def test_models_that_were_measured_on_different_devices_are_not_drawn_together() -> None:
    report = with_speeds(two(), good=1.0, bad=1.0)
    best, other = report.entries
    assert other.speed
    elsewhere = replace(report, entries=(best, replace(other, speed=replace(other.speed, device="cuda"))))
    assert tradeoff(elsewhere, {}) is None
    assert "| cuda |" in markdown([elsewhere])


def test_only_settings_that_differ_are_shown() -> None:
    report = report_of(two())
    assert differing(report) == ["optimizer.name", "optimizer.lr"]
    titles = [column.title for column in columns(report)]
    assert titles[:4] == ["validation accuracy", "test accuracy", "validation loss", "against the best"]
    assert "optimizer" in titles
    assert "model.hidden_units" not in titles
    assert re.search(r"97\.78% ±2\.\d .* optimizer=Adam lr=0\.01 *$", shown(report), re.MULTILINE)
    assert re.search(r"^good: optimizer=Adam lr=0\.01 *$", shown(report, width=80), re.MULTILINE)
    assert max(map(len, shown(report, width=80).splitlines())) <= 80


@pytest.mark.parametrize(
    ("width", "left_out"),
    [(120, ""), (80, ""), (60, "against the best, p"), (40, "test accuracy, against the best, p")],
)
def test_a_narrow_terminal_shows_what_decides_and_says_what_it_leaves_out(width: int, left_out: str) -> None:
    rows = results(two())[0]
    rows[1]["challenger"] = True
    text = shown(gather(two(), "digits", ["good", "bad"], rows), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert re.search(r"^ good +97\.78% ±2\.\d .*best", text, re.MULTILINE), text
    assert "challenger" in text
    one_line = " ".join(text.split())
    assert f"left out, for the terminal is narrow: {left_out}; a terminal of " in one_line or not left_out
    assert ("left out" in text) == bool(left_out)


def test_only_the_numbers_are_gathered_for_the_terminal() -> None:
    report = report_of(two(), details=False)
    assert report.drawn == []
    assert report.answers is None
    assert report.entries[1].difference
    assert report.entries[1].difference.interval is None


def test_the_test_is_named_by_the_number_of_seeds() -> None:
    report = report_of(two())
    best, other = report.entries
    assert "p-values are those of McNemar's exact test, and" in words.compared_how(report)
    seeded = replace(report, entries=(replace(best, seeds=2), other))
    said = words.compared_how(seeded)
    assert "p-values are those of Obuchowski and Rockette's estimate for several seeds, and" in said
    assert "at most 4 seeds together say little about the spread between seeds" in said
    many = words.compared_how(replace(report, entries=(replace(best, seeds=3), replace(other, seeds=3))))
    assert "McNemar" not in many
    assert "together" not in many
    third = replace(other, seeds=9)
    both = words.compared_how(replace(report, entries=(best, other, third)))
    assert "those of McNemar's exact test and of Obuchowski and Rockette's estimate for several seeds" in both


def test_how_many_models_the_test_part_has_measured_is_said_in_every_form() -> None:
    rows = [row | {"judged": 53} for row in results(two())[0]]
    report = gather(two(), "digits", ["good", "bad"], rows)
    forms = shown(report), markdown([report]), page([report]).decode()
    assert all("the test part has measured 53 models" in form for form in forms)


def test_a_page_that_another_folder_logged_is_not_taken_for_ours() -> None:
    params = two()
    digits("good", 4)
    record, _ = recorded({"good": experiment("digits")}, "one", None)
    remember("digits", record, "ours")
    ours, theirs, nowhere = ([{"page": "#/", "report": sha256}] for sha256 in ("ours", "theirs", None))
    assert last_of(params, "digits", ours) == record
    assert last_of(params, "digits", [{}]) == record, "MLflow was not asked"
    assert last_of(params, "digits", theirs) is None
    assert last_of(params, "digits", nowhere) is None
    made_of = [fingerprint(params, "digits", rows) for rows in (ours, theirs)]
    assert made_of[0] == made_of[1], "or each page would make another one"


def test_one_experiment_alone_is_compared_with_nothing() -> None:
    digits("only", 4)
    report = report_of(params_of({"only": experiment("digits")}))
    assert words.leader(report) == "only has the best validation accuracy: 97.78% (94.4% to 99.1%)."
    assert words.compared_how(report) == ""
    text = page([report]).decode()
    assert "Differences from" not in text
    assert "Recall of each class" not in text
    assert "Confusion matrices" in text


def test_a_regression_is_decided_by_its_test_part_and_lower_is_better() -> None:
    write_outputs("near", "line", {"test": predicted("line", 10, 1)}, CURVE)
    write_outputs("far", "line", {"test": predicted("line", 10, 30, seed=1)}, CURVE)
    report = report_of(params_of({"far": experiment("line"), "near": experiment("line")}), "line")
    assert [entry.name for entry in report.entries] == ["near", "far"]
    assert "there is no validation part" in words.basis(report)
    assert isinstance(report.answers, Fits)
    text = page([report]).decode()
    assert "Predicted against true values" in text
    assert "Confusion matrices" not in text
    assert columns(report)[0].sorted == "ascending"


def test_an_experiment_without_metrics_yet_is_named_with_the_next_step() -> None:
    params = two()
    metrics_file("digits", "bad").unlink()
    report = report_of(params)
    assert [entry.name for entry in report.entries] == ["good"]
    assert report.remarks == ("bad of digits is not evaluated yet; next: dvc repro evaluate@bad",)
    assert all(report.remarks[0] in form for form in (shown(report), page([report]).decode()))


def test_without_any_metrics_there_is_nothing_to_compare() -> None:
    params = params_of({"a": experiment("digits"), "b": experiment("digits")})
    with pytest.raises(DataError, match=r"none of a, b has been evaluated; next: dvc repro, or trackway run"):
        collected(params, [], details=False)


def test_a_dataset_without_any_metrics_yet_stands_beside_the_others() -> None:
    digits("good", 4)
    params = params_of({"good": experiment("digits"), "near": experiment("line")})
    reports, _ = collected(params, [], details=True)
    said = "near of line is not evaluated yet; next: dvc repro evaluate@near"
    for form in (page(reports).decode(), markdown(reports), shown(reports[1])):
        assert "No experiment is evaluated yet." in form
        assert said in form.replace("\\", "")


def test_a_lost_history_leaves_the_curves_out_and_says_so() -> None:
    params = two()
    history_file("bad").unlink()
    report = report_of(params)
    assert report.remarks == ("the curves of bad are left out: plots/history/bad.csv is not there; next: dvc pull",)
    assert [each["name"] for each in charts(report)[0].data["series"]] == ["good"]


def test_lost_predictions_leave_the_comparison_out() -> None:
    params = two()
    scored_file("digits", "bad").unlink()
    report = report_of(params)
    assert report.entries[1].difference is None
    assert words.others(report) == "Not compared with it: 1 of 1."


def test_experiments_measured_on_other_samples_are_not_compared() -> None:
    params = two()
    other = replace(predicted("digits", 180, 40), data="another md5")
    scored_file("digits", "bad").write_bytes(as_file({"validation": other, "test": predicted("digits", 360, 80)}))
    assert report_of(params).entries[1].difference is None


def test_a_metric_that_is_not_computed_from_predictions_compares_nothing() -> None:
    report = replace(report_of(two()), metric="loss")
    report = replace(report, entries=tuple(replace(entry, difference=None) for entry in report.entries))
    said = "The others cannot be compared with it on the same samples, since loss is not computed from predictions."
    assert words.others(report) == said


def test_hostile_names_are_text_in_every_form() -> None:
    report = report_of(two())
    entries = tuple(replace(entry, name=f"{HOSTILE}{number}") for number, entry in enumerate(report.entries))
    classes = tuple(f"{name}{HOSTILE}" for name in report.classes)
    hostile = replace(report, dataset=HOSTILE, entries=entries, classes=classes, answers=None, remarks=(HOSTILE,))
    text = page([hostile]).decode()
    assert "<img" not in text
    assert "&lt;img src=x onerror=" in text
    assert re.findall(r"<script>.*?</script>", text, re.DOTALL) == re.findall(
        r"<script>\n?\"use strict.*?</script>", text, re.DOTALL
    )
    lines = markdown([hostile]).splitlines()
    assert not any(re.search(r"(?<!\\)<img|(?<!\\)`|(?<!\\)\[", line) for line in lines)
    head, *rows = [re.findall(r"(?<!\\)\|", line) for line in lines if line.startswith("| ")][:4]
    assert all(len(row) == len(head) for row in rows)
    assert "<img" in shown(hostile), "the terminal shows it as it is"


def test_escaped_text_reads_the_same_in_markdown() -> None:
    assert escaped("digits_a|b\n<b>") == r"digits\_a\|b \<b\>"


def test_the_page_is_the_same_each_time_and_asks_for_nothing() -> None:
    params = two()
    text = page([report_of(params)]).decode()
    assert text == page([report_of(params)]).decode()
    assert "http:" not in text.replace("http-equiv", "")
    assert "https:" not in text
    assert "default-src 'none'" in text


def test_bands_reach_from_the_lowest_to_the_highest_seed() -> None:
    params = two()
    for seed, shift in ((42, -0.1), (43, 0.1)):
        write_history(Path(f"models/good/seed-{seed}/history.csv"), "validation", [loss + shift for loss in CURVE])
    curve = next(iter(report_of(params).drawn)).details.curves["validation/loss"]  # type: ignore[union-attr]
    assert curve.mean == (2.0, 1.0, 0.5)
    assert curve.low == pytest.approx((1.9, 0.9, 0.4))
    assert curve.high == pytest.approx((2.1, 1.1, 0.6))
    assert 'class="band"' in page([report_of(params)]).decode()


def test_several_seeds_show_their_spread_and_the_chosen_one_s_answers() -> None:
    params = two()
    seeds = np.stack([predicted("digits", 360, wrong, wrong).predictions for wrong in (8, 9)])
    test = predicted("digits", 360, 8, 8)
    both = {"validation": predicted("digits", 180, 4), "test": replace(test, predictions=seeds)}
    scored_file("digits", "good").write_bytes(as_file(both))
    edited(metrics_file("digits", "good"), seeds={"42": {}, "43": {}}, sd={"validation": {"accuracy": 0.004}})
    edited(report_file("digits", "good"), chosen_seed=43)
    images = np.zeros((360, 1, 8, 8), np.uint8)
    write_inputs(images, test.targets)
    report = report_of(params)
    assert report.entries[0].seeds == 2
    assert "±0.40% over 2 seeds" in page([report]).decode()
    assert isinstance(report.answers, Pictures)
    wrong = report.answers.answers["good"] != report.answers.targets
    assert wrong.sum() == sum(number in np.flatnonzero(seeds[1] != test.targets) for number in report.answers.numbers)


def edited(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_bytes()) | values), encoding="utf-8")


def write_inputs(inputs: np.ndarray, targets: np.ndarray) -> None:
    folder = evaluation_folder("digits")
    folder.mkdir(parents=True)
    np.save(folder / "test-inputs.npy", inputs)
    np.save(folder / "test-targets.npy", targets)
    info = {"shape": inputs.shape[1:], "classes": [str(n) for n in range(10)], "scale": 16.0, "samples": {"test": 360}}
    (folder / "info.json").write_text(json.dumps(info), encoding="utf-8")


def test_pictures_are_shown_only_if_they_are_those_that_were_measured() -> None:
    params = two()
    write_inputs(np.full((360, 1, 8, 8), 16, np.uint8), predicted("digits", 360, 0).targets)
    answers = report_of(params).answers
    assert isinstance(answers, Pictures)
    assert len(answers.images) == 24
    first = [answers.answers[name][0] == answers.targets[0] for name in ("good", "bad")]
    assert sorted(first) == [False, True], "those on which the models disagree come first"
    np.save(evaluation_folder("digits") / "test-targets.npy", np.zeros(360, np.int64))
    assert report_of(params).answers is None


def test_the_most_confident_mistakes_are_shown_with_their_probability() -> None:
    params, test = two(), predicted("digits", 360, 20)
    write_inputs(np.random.default_rng(0).integers(17, size=(360, 1, 8, 8)).astype(np.uint8), test.targets)
    assert report_of(params).mistakes == {}, "an older version did not keep how sure a model was"
    sure = np.random.default_rng(1).random(360).astype(np.float32).round(4)
    scored_file("digits", "good").write_bytes(as_file({"test": replace(test, confidence=sure)}))
    report = report_of(params)
    assert list(report.mistakes) == ["good"]
    found = report.mistakes["good"]
    wrong = np.flatnonzero(test.predictions != test.targets)
    assert [each.number for each in found] == sorted(wrong, key=lambda number: -sure[number])[:8]
    assert [each.probability for each in found] == [float(sure[each.number]) for each in found]
    assert all(test.targets[each.number] == each.target for each in found)
    assert all(test.predictions[each.number] == each.answer for each in found)
    text = page([report]).decode()
    assert f"{found[0].probability:.1%}" in text
    assert "data:image/png;base64," in text
    points = replace(found[0], picture=b"", values="0.1, −2")
    assert '<p class="values">0.1, −2</p>' in page([replace(report, mistakes={"good": (points,)})]).decode()


def test_many_experiments_are_all_in_the_table_and_few_in_the_figures() -> None:
    names = [f"e{number}" for number in range(40)]
    for number, name in enumerate(names):
        digits(name, 4 + number, seed=number)
    report = report_of(params_of({name: experiment("digits") for name in names}))
    text = page([report]).decode()
    assert len(report.entries) == 40
    assert len(report.drawn) == MOST_DRAWN
    assert sum(entry.difference is not None for entry in report.entries) == MOST_COMPARED
    assert "The 10 best of 40 experiments are drawn." in text
    assert len(text) < 1_000_000


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    digits("long", 4)
    write_history(history_file("long"), "validation", [1 / epoch for epoch in range(1, 1001)])
    chart = charts(report_of(params_of({"long": experiment("digits")})))[0]
    epochs = chart.data["series"][0]["epochs"]
    assert len(epochs) <= MOST_EPOCHS
    assert (epochs[0], epochs[-1]) == (1, 1000)


def test_a_curve_with_infinite_values_has_gaps() -> None:
    report = report_of(two())
    best = report.entries[0]
    assert best.details
    broken = replace(best.details, curves={"train/loss": Curve((1, 2, 3, 4), (1.0, float("inf"), 2.0, float("nan")))})
    (chart,) = charts(replace(report, entries=(replace(best, details=broken),)))
    assert chart.data["series"][0]["values"] == [1.0, None, 2.0, None]
    assert "inf" not in chart.svg.partition("aria-label")[0]
    assert "nan" not in chart.svg.partition("aria-label")[0]


def test_the_forest_has_zero_and_every_interval_inside() -> None:
    report = report_of(two())
    found = forest(report, {"good": 0, "bad": 1})
    assert found
    (bar,) = found.bars
    assert 0 < bar.low < bar.middle < bar.high < found.zero < 100
    assert bar.texts[0] == "−20.0 points"


def test_recalls_are_those_of_the_classes_that_differ_most_first() -> None:
    entries, rows = recalls(report_of(two()))
    assert [entry.name for entry in entries] == ["good", "bad"]
    sizes = [abs(row.others[0] or 0) for row in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_names_choose_datasets_and_experiments() -> None:
    params = params_of(
        {"a": experiment("digits"), "b": experiment("digits"), "digits": experiment("line"), "c": experiment("line")}
    )
    assert chosen(params, []) == {"digits": ["a", "b"], "line": ["digits", "c"]}
    assert chosen(params, ["c", "b"]) == {"digits": ["b"], "line": ["c"]}
    assert chosen(params, ["datasets.digits"]) == {"digits": ["a", "b"]}
    assert chosen(params, ["experiments.digits", "line"]) == {"line": ["digits", "c"]}
    with pytest.raises(ParamsError, match=r"digits is an experiment and a dataset; say experiments.digits or"):
        chosen(params, ["digits"])
    with pytest.raises(ParamsError, match=r"lime is neither a dataset nor an experiment; .* did you mean line\?"):
        chosen(params, ["lime"])


def test_a_file_is_a_page_or_markdown_and_is_written_whole(tmp_path: Path) -> None:
    report = report_of(two())
    assert content_of(Path("a.html"))([report]).startswith(b"<!DOCTYPE html>")
    assert content_of(Path("a.md"))([report]).startswith(b"# digits")
    with pytest.raises(DataError, match=r"--out is a.pdf; its name must end in .html or .md"):
        content_of(Path("a.pdf"))
    write_result("--out", tmp_path / "new" / "a.md", b"text")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.md"]
    with pytest.raises(DataError, match="a folder; give the name of a file in it"):
        write_result("--out", tmp_path / "new", b"text")
    for name in ("new/a.md/b.md", "new/a.md/b/c.md", "a" * 300):
        with pytest.raises(
            DataError, match=r"which cannot be a file: (File exists|Not a directory|File name too long);"
        ):
            write_result("--out", tmp_path / name, b"text")


def test_what_the_gate_said_is_shown_with_the_champion() -> None:
    params = two()
    rows = results(params)[0]
    rows[1] |= {"champion": True, "decision": "bad is champion, chosen by hand: smaller"}
    rows[0] |= {"challenger": True, "decision": "bad stays champion"}
    report = gather(params, "digits", ["good", "bad"], rows)
    said = ["Challenger: bad stays champion.", "Champion: bad is champion, chosen by hand: smaller."]
    assert words.decisions(report) == said
    text = page([report]).decode()
    assert all(sentence in text for sentence in said)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.97, 0.98), (-3.0, 2000.0), (1e-9, 3e-9)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = linear_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in ticks)


def test_logarithmic_ticks_are_powers_of_ten_if_there_are_many() -> None:
    assert logarithmic_ticks(1e-5, 1.0) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert logarithmic_ticks(0.02, 3) == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2])


def test_predictions_of_a_metric_that_cannot_be_computed_are_not_compared() -> None:
    params = two()
    odd = Predictions(np.arange(180) % 10, np.zeros((3, 2), np.int64), "md5", 10)
    scored_file("digits", "bad").write_bytes(as_file({"validation": odd, "test": predicted("digits", 360, 80)}))
    assert report_of(params).entries[1].difference is None


def test_what_changed_is_said_in_every_form() -> None:
    changes = Changes(
        "1a2b3c4d",
        ("5e6f7a8 Raise <the> rate",),
        data=("test part: md5 00000000 → 11111111",),
        parameters=tuple(f"good: key{number} 1 → 2" for number in range(30)),
    )
    report = replace(report_of(two()), changes=changes)
    text, html = markdown([report]).replace("\\", ""), page([report]).decode()
    said = "Since the previous report (commit 1a2b3c4d): 1 commit, 1 change of data, 30 changes of parameters."
    for form in (text, html, " ".join(shown(report).split())):
        assert said in form
    for form in (text, html.replace("&lt;", "<").replace("&gt;", ">")):
        assert "5e6f7a8 Raise <the> rate" in form
        assert "test part: md5 00000000 → 11111111" in form
        assert "good: key19 1 → 2" in form
        assert "good: key20" not in form
        assert "and 10 more" in form
    assert "<the>" not in html
    for none in (Changes(is_first=True), Changes("1a2b3c4d"), Changes("1a2b3c4d", commits_known=False)):
        html = page([replace(report, changes=none)]).decode()
        assert words.changed(none) in html
        assert 'class="changes"' not in html
    assert "What changed" not in page([replace(report, changes=None)]).decode()


def test_changes_are_those_since_the_report_before_and_stay_until_the_next() -> None:
    digits("good", 4)
    first, said = recorded({"good": experiment("digits")}, "one", None)
    assert said.is_first
    settings = {"good": experiment("digits", optimizer={"name": "SGD", "lr": 0.2}), "new": experiment("digits")}
    second, said = recorded(settings, "two", first)
    expected = ("good: optimizer.lr 0.1 → 0.2", "new is new")
    assert said.parameters == expected
    again, said = recorded(settings, "two", record_from(second.as_json()))
    assert said.parameters == expected, "the same page again"
    assert again == second
    splits = {
        "validation": predicted("digits", 180, 4),
        "test": replace(predicted("digits", 360, 4), data="other data"),
    }
    write_outputs("good", "digits", splits, CURVE)
    _, said = recorded({"good": settings["good"]}, "three", second)
    assert said.parameters == ("new is gone",)
    assert said.data == ("test part: md5 md5 → other da",)
    assert record_from(b'"hash of an older version"') is None


def recorded(experiments: dict[str, Any], made_of: str, last: Record | None) -> tuple[Record, Changes]:
    params = params_of(experiments)
    return record_of(params, "digits", results(params)[0], made_of, last)


def test_commits_since_the_report_before_are_listed(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "--message", "First")
    before = State(head(), {}, {}, {})
    assert since(before, before) == Changes(before.commit[:8])
    (tmp_path / "file").touch()
    git("add", ".")
    git("commit", "--message", "Second")
    (said,) = since(before, State(head(), {}, {}, {})).commits
    assert re.fullmatch(r"[0-9a-f]+ Second", said)
    assert not since(replace(before, commit="0" * 40), before).commits_known
