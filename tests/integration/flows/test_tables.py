"""Tables: a user's own and one of the catalog, from the file to the table of results."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import requests
from mlflow.exceptions import MlflowException
from playwright.sync_api import expect

from learn.data.transformed import COLUMNS, FittedColumns
from tasks.params import load_params
from tasks.register import measured_anew
from tasks.tracking.loading import load_model
from tasks.tracking.names import Store
from tests.support.browser import browser
from tests.support.model_server import serving
from tests.support.pages import blocks
from tests.support.project import TRACKWAY, Project, make_project
from tests.support.space import asked, started

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",  # asyncio's own, when playwright's event loop ends
    "ignore::ResourceWarning",
    "ignore:.*Any type hint is inferred as AnyType",  # of mlflow.pyfunc itself, when it is imported
)


def write_houses(file: Path) -> None:
    """Prices by area and zone, with missing cells, a copy of a column and ten rows in both parts."""
    random = np.random.default_rng(0)
    areas, zones = random.uniform(30, 200, 300), random.integers(0, 3, 300)
    prices = 1000 * areas + 60_000 * (zones == 1) + random.normal(0, 10_000, 300)
    areas[random.random(300) < 0.05] = np.nan
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=";")
        writer.writerow(["area (m²)", "zone", "zone.copy", "price", "part"])
        for i, (area, zone, price) in enumerate(zip(areas, zones, prices, strict=True)):
            name = ["north", "south-east", "west, old"][zone]
            row = ["" if np.isnan(area) else round(area, 1), name, name, round(price), "train" if i < 240 else "test"]
            writer.writerow(row)
            if 230 <= i < 240:
                writer.writerow([*row[:4], "test"])


def test_a_table_goes_through_all_stages_and_stands_beside_its_yardsticks(
    tmp_path: Path, warm_socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    project = make_project(tmp_path / "project")
    text = project.read("params.yaml").partition("\ndatasets:")[0]
    (project.folder / "params.yaml").write_text(f"{text}\ndatasets: {{}}\nexperiments: {{}}\n")
    write_houses(file := tmp_path / "houses.csv")
    add = (*TRACKWAY, "add-table", "houses", str(file), "--target", "price", "--split-column", "part")
    assert (
        "240 rows and 70 for testing; columns: 1 of numbers, 2 of categories; a number is predicted"
        in project.run(*add).stdout
    )
    project.run(*TRACKWAY, "add", "wine")
    log = project.run("dvc", "repro", "register@houses", "transform@wine", check=True).stdout
    assert re.search(r"transform houses: duplicate: \d+ rows are in test and also in train", log)
    assert "transform houses: equal columns: the column 'zone.copy' says the same as 'zone'" in log
    assert "up to date" in project.run("dvc", "status", "transform@houses", "evaluate@houses-mlp").stdout
    check_outputs(project)
    check_results(project.run(*TRACKWAY, "results").stdout)
    check_model(project)
    check_prediction(project, file)
    check_export(project)
    check_space(project)
    check_page(project)

    file.write_text(file.read_text(encoding="utf-8") + "99;north;north;99000;train\n", encoding="utf-8")
    assert "dataset houses has a new version: 241 rows" in project.run(*add).stdout
    stale = project.run("dvc", "status", "download@houses", "transform@wine").stdout
    assert "download@houses" in stale
    assert "transform@wine" not in stale
    log = project.run("dvc", "repro", "register@houses", check=True).stdout
    assert "register houses: the champion is measured anew on the validation part, which is other data now" in log
    monkeypatch.chdir(project.folder)
    check_measured_anew(project.tracking_uri)


def check_outputs(project: Project) -> None:
    folder = project.folder / "data/transformed/houses"
    assert (project.folder / "data/transformed/wine/evaluation/yardsticks/Dummy/validation.npy").is_file()
    names = FittedColumns.read(folder / "training").features
    assert names[:2] == ("area (m²)", "zone=north")
    assert np.load(folder / "training/train-inputs.npy").shape == (192, len(names))
    assert (folder / "training" / COLUMNS).is_file()
    problems = json.loads((folder / "report.json").read_text(encoding="utf-8"))["problems"]
    assert [problem["kind"] for problem in problems] == ["equal columns", "duplicate"]
    errors = json.loads(project.read("metrics/houses/houses-mlp.report.json"))["yardsticks"]
    mae = json.loads(project.read("metrics/houses/houses-mlp.json"))["mae"]
    assert mae < errors["Dummy"]["test"]["mae"]
    assert errors["HistGradientBoosting"]["test"]["mae"] < errors["Dummy"]["test"]["mae"]


def check_results(shown: str) -> None:
    rows = [line.split() for line in shown.splitlines() if line.split()[:1] == ["houses"]]
    assert [row[1] for row in rows] == ["houses-mlp", "Dummy", "HistGradientBoosting"]
    assert [row[-1] for row in rows] == ["champion", "yardstick", "yardstick"]


def check_model(project: Project) -> None:
    """What is registered takes the table's own columns, in plain Python."""
    mlflow.set_tracking_uri(project.tracking_uri)
    card = mlflow.MlflowClient().get_model_version_by_alias("houses", "champion").description
    assert "It predicts a number, from 3 columns of a table: area (m²), zone, zone.copy." in card
    model = mlflow.pyfunc.load_model("models:/houses@champion")
    assert [(each.name, each.type.name) for each in model.metadata.get_input_schema()] == [
        ("area (m²)", "double"),
        ("zone", "string"),
        ("zone.copy", "string"),
    ]
    raw = np.load(project.folder / "data/transformed/houses/evaluation/raw/test.npy")
    zones = [["north", "south-east", "west, old"][int(zone)] for zone in raw[:, 1]]
    table = pd.DataFrame({"zone": zones, "area (m²)": raw[:, 0].astype(float), "zone.copy": zones})
    (row,) = json.loads(model.input_example[:1].to_json(orient="records"))
    assert row == json.loads(table[:1].to_json(orient="records", double_precision=1))[0]
    with (project.folder / "plots/predictions/houses-mlp.csv").open(newline="") as stream:
        expected = [float(each["predicted"]) for each in csv.DictReader(stream)]
    assert np.isnan(raw[:, 0]).any()
    np.testing.assert_allclose(model.predict(table)["value"], expected, atol=0.02)
    model.predict(table.assign(zone=None))
    (shown,) = blocks("python", "docs/tables.md")
    row = {"area": 75.0, "rooms": 3.0, "zone": "north"}
    assert str(row).replace("'", '"') in shown
    own = {"area (m²)": 75.0, "zone": "north", "zone.copy": "north"}
    assert "value" in project.python(shown.replace(str(row).replace("'", '"'), str(own))).stdout
    with pytest.raises(MlflowException, match=r"'east' is no category of the column 'zone'; it has"):
        model.predict(table.assign(zone="east"))
    with pytest.raises(MlflowException, match=r"a number of the column .area .m².. is missing, infinite or too large"):
        model.predict(table.assign(**{"area (m²)": 1e300}))
    with pytest.raises(MlflowException, match=r"Model is missing inputs \['zone'\]"):
        model.predict(table.drop(columns="zone"))
    with pytest.raises(MlflowException, match="there is no input; give one or more"):
        model.predict(table[:0])


def check_measured_anew(uri: str) -> None:
    """A model that does not fill in missing numbers cannot be measured where some are missing."""
    params, model = load_params(), load_model(Store(uri), "houses@champion")
    assert measured_anew(params, "houses", "test", model)
    (fill,) = (buffer for name, buffer in model.graph.named_buffers() if name.endswith("fill"))
    fill.fill_(math.nan)
    assert measured_anew(params, "houses", "test", model) is None


def check_prediction(project: Project, file: Path) -> None:
    out = project.folder / "found.csv"
    command = (*TRACKWAY, "predict", "--model", "houses@champion", str(file))
    assert "written: found.csv, with 310 predictions" in project.run(*command, "--out", "found.csv").stdout
    with out.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    errors = [abs(float(row["predicted"]) - float(row["price"])) for row in rows]
    assert np.mean(errors) < 30_000
    (line,) = [each for each in project.run(*command).stdout.splitlines() if each.startswith("row 310: ")]
    assert float(line.partition(": ")[2]) == pytest.approx(float(rows[-1]["predicted"]), rel=1e-4)


def check_export(project: Project) -> None:
    """A file takes the table's own columns too: numbers, and the indices of categories."""
    command = (*TRACKWAY, "export", "houses@champion", "--format", "onnx", "--out", "houses.onnx")
    assert re.search(r"on the \d+ samples of the test part: outputs differ by", project.run(*command).stdout)
    session = onnxruntime.InferenceSession(project.folder / "houses.onnx")
    columns = json.loads(session.get_modelmeta().custom_metadata_map["columns"])
    assert columns["area (m²)"] == "number"
    assert columns["zone"] == ["north", "south-east", "west, old"]
    raw = np.load(project.folder / "data/transformed/houses/evaluation/raw/test.npy")
    (found,) = session.run(["prediction"], {"inputs": raw})
    with (project.folder / "plots/predictions/houses-mlp.csv").open(newline="") as stream:
        expected = [float(each["predicted"]) for each in csv.DictReader(stream)]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=0.02)


def check_space(project: Project) -> None:
    """Its page has a field for each column."""
    project.run(*TRACKWAY, "export", "houses@champion", "--format", "space", "--out", "space")
    rows = [json.loads(file.read_text()) for file in sorted((project.folder / "space/examples").iterdir())]
    model = mlflow.pyfunc.load_model("models:/houses@champion")
    with started(project.folder / "space") as address:
        for row, expected in zip(rows, model.predict(model.input_example)["value"], strict=True):
            assert asked(address, *row.values())[0] == pytest.approx(expected, rel=1e-4)
        assert asked(address, None, None, None)[0] > 0, "missing values are imputed"


def check_page(project: Project) -> None:
    """A form with a field for each column; the first sample fills it in."""
    with serving(project, "houses@champion") as address, browser() as opened:
        page = opened.new_page()
        page.goto(address)
        page.get_by_label("area (m²)", exact=True).fill("many")
        page.get_by_role("button", name="Predict", exact=True).click()
        expect(page.locator("#error")).to_contain_text(
            'area (m²) is "many"; it must be a number, such as 0.5, or empty'
        )
        page.get_by_role("button", name="Sample 1").click()
        first = page.locator("#classes li").first
        expect(first).to_have_text(re.compile(r"^\d+"))
        before = first.text_content()
        assert page.get_by_label("zone", exact=True).input_value() in ("north", "south-east", "west, old")
        page.get_by_label("area (m²)", exact=True).fill("")
        page.keyboard.press("Enter")
        expect(first).not_to_have_text(before or "")
        answer = requests.post(
            f"{address}/invocations",
            data='area (m²),zone,zone.copy\n50,north,north\n,"west, old",\n'.encode(),
            headers={"Content-Type": "text/csv"},
            timeout=60,
        )
        assert [row.keys() for row in answer.json()["predictions"]] == [{"value"}] * 2
        records = {"dataframe_records": [{"area (m²)": 50, "zone": "north", "zone.copy": None}]}
        found = requests.post(f"{address}/invocations", json=records, timeout=60).json()["predictions"]
        assert found[0].keys() == {"value"}
        refused = requests.post(f"{address}/predict", files={"photo": b"no photo"}, timeout=60).json()["detail"]
        assert refused == "houses takes a table's columns, not photos; send such inputs to /invocations"
