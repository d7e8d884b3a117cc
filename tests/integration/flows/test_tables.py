"""Tables: a user's own and one of the catalog, from the file to the table of results."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np

from learn.data.transformed import COLUMNS, FittedColumns
from tests.support.project import TRACKWAY, Project, make_project


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


def test_a_table_goes_through_all_stages_and_stands_beside_its_yardsticks(tmp_path: Path, warm_socket: str) -> None:
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

    file.write_text(file.read_text(encoding="utf-8") + "99;north;north;99000;train\n", encoding="utf-8")
    assert "dataset houses has a new version: 241 rows" in project.run(*add).stdout
    stale = project.run("dvc", "status", "download@houses", "transform@wine").stdout
    assert "download@houses" in stale
    assert "transform@wine" not in stale


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
