"""The course's photos, and a user's own: added, checked at the door, trained, compared, predicted."""

from __future__ import annotations

import base64
import csv
import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests
from PIL import Image
from playwright.sync_api import expect

from learn.data.datasets.images import Images
from tasks.params import load_params
from tasks.tracking.tags import DIAGNOSIS, EXPERIMENT
from tests.support.browser import browser
from tests.support.model_server import evaluated, serving
from tests.support.project import ROOT, TRACKWAY, Project, make_project

NUMBERS = json.loads((ROOT / "tests/golden/numbers.json").read_text(encoding="utf-8"))["photos"]["food-tinyvgg"]


def only_photos(folder: Path, mirror: Path | None = None) -> Project:
    """A project whose params.yaml has no dataset or experiment but those to be added."""
    project = make_project(folder)
    text = project.read("params.yaml")
    (folder / "params.yaml").write_text(text.partition("\ndatasets:")[0] + "\ndatasets: {}\nexperiments: {}\n")
    return project


@pytest.fixture(scope="module")
def food(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """`trackway add food`, then `dvc repro`, on the real photos."""
    project = only_photos(tmp_path_factory.mktemp("food") / "project")
    project.run(*TRACKWAY, "add", "food")
    log = project.run("dvc", "repro", DATA_MIRROR=str(mirror)).stdout
    (project.folder / ".git/log").write_text(log)
    return project


def runs(project: Project, dataset: str) -> dict[str, mlflow.entities.Run]:
    client = mlflow.MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name(dataset)
    assert experiment
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def artifacts(project: Project, run: mlflow.entities.Run, folder: str) -> set[str]:
    client = mlflow.MlflowClient(project.tracking_uri)
    return {Path(file.path).name for file in client.list_artifacts(run.info.run_id, folder)}


def test_tiny_vgg_gives_the_course_s_digits(food: Project) -> None:
    with (food.folder / "plots/history/food-tinyvgg.csv").open(newline="") as stream:
        last = list(csv.DictReader(stream))[-1]
    assert {key: f"{float(last[key]):.4f}" for key in NUMBERS} == NUMBERS
    assert "train food-tinyvgg: 10,693 parameters, 225 samples" in food.read(".git/log")


def test_a_constant_predictor_is_called_one_and_never_becomes_champion(food: Project) -> None:
    log = food.read(".git/log")
    assert "always steak: it predicts steak for all of the test part's samples" in log
    assert "food-tinyvgg cannot be champion: it says always steak" in log
    assert runs(food, "food")["food-tinyvgg"].data.tags[DIAGNOSIS] == "always steak"
    shown = food.run(*TRACKWAY, "results", COLUMNS="200").stdout
    (line,) = [line for line in shown.splitlines() if "food-tinyvgg " in line]
    assert "always" in line
    assert "champion" not in line


def test_two_experiments_beat_both_of_the_course_s_clearly(food: Project) -> None:
    accuracy = {
        name: json.loads(food.read(f"metrics/food/{name}.json"))["accuracy"]
        for name in ("food-tinyvgg", "food-tinyvgg-augmented", "food-cnn", "food-cnn-augmented")
    }
    course = max(accuracy["food-tinyvgg"], accuracy["food-tinyvgg-augmented"])
    assert min(accuracy["food-cnn"], accuracy["food-cnn-augmented"]) > course + 0.15


def test_augmentation_is_shown_and_told(food: Project) -> None:
    run = runs(food, "food")["food-cnn-augmented"]
    assert "augmentation.png" in artifacts(food, run, "figures")
    assert "TrivialAugmentWide" in run.data.params["augmentation"]
    assert "augmentation.png" not in artifacts(food, runs(food, "food")["food-cnn"], "figures")
    assert "diagnosis.txt" in artifacts(food, run, "")
    assert "report.json" in artifacts(food, run, "data")


# asyncio's own, when playwright's event loop ends
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_its_page_says_of_a_dropped_photo_what_evaluate_predicted(food: Project) -> None:
    photos = sorted(food.folder.glob("data/raw/food/test/*/*"))
    champion = mlflow.MlflowClient(food.tracking_uri).get_model_version_by_alias("food", "champion").tags[EXPERIMENT]
    expected = evaluated(food, champion)
    pizza = next(n for n, photo in enumerate(photos) if photo.parent.name == expected[n] == "pizza")
    with serving(food, "food@champion") as address, browser() as opened:
        found = [
            requests.post(f"{address}/predict", files={"photo": photo.read_bytes()}, timeout=60).json()
            for photo in photos
        ]
        assert [each["classes"][0]["class"] for each in found] == expected
        page = opened.new_page()
        page.goto(address)
        expect(page.get_by_text("Drop a photo anywhere")).to_be_visible()
        page.evaluate(DROP, base64.b64encode(photos[pizza].read_bytes()).decode())
        expect(page.locator("#classes li").first).to_contain_text("pizza")


DROP = """content => {
    const bytes = Uint8Array.from(atob(content), character => character.charCodeAt(0)), given = new DataTransfer();
    given.items.add(new File([bytes], "photo.jpg", { type: "image/jpeg" }));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true }));
}"""


def test_the_champion_predicts_photos_as_it_did_when_it_was_measured(food: Project, tmp_path: Path) -> None:
    photos = sorted(str(path.relative_to(food.folder)) for path in food.folder.glob("data/raw/food/test/*/*"))
    plot = tmp_path / "some.png"
    shown = food.run(*TRACKWAY, "predict", "--model", "food@champion", "--top", "1", *photos).stdout
    predicted = [line.partition(": ")[2].split()[0] for line in shown.splitlines() if line.startswith("data/raw")]
    champions = mlflow.MlflowClient(food.tracking_uri).get_model_version_by_alias("food", "champion").tags
    assert predicted == evaluated(food, champions[EXPERIMENT])
    shown = food.run(*TRACKWAY, "predict", "--model", "food@champion", "--plot", str(plot), *photos[:2]).stdout
    assert shown.count("%") == 6
    with Image.open(plot) as picture:
        assert picture.size[0] > picture.size[1] > 100

    (folder := tmp_path / "some" / "more").mkdir(parents=True)
    for name in ("a.jpg", "more/b.JPG"):
        shutil.copyfile(food.folder / photos[0], tmp_path / "some" / name)
    (tmp_path / "some" / "bad\n.png").write_bytes(b"no photo")
    out = tmp_path / "found.csv"
    done = food.run(
        *TRACKWAY, "predict", "--model", "food@champion", str(folder.parent), "--out", str(out), check=False
    )
    assert done.returncode == 1
    assert f"error: {folder.parent}/bad\\n.png cannot be read: it is no picture of these formats" in done.stdout
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["photo"] for row in rows] == [f"{folder.parent}/a.jpg", f"{folder}/b.JPG"]
    assert {row["predicted"] for row in rows} == {predicted[0]}
    assert sum(float(rows[0][f"probability of {name}"]) for name in ("pizza", "steak", "sushi")) == pytest.approx(
        1, abs=1e-5
    )

    done = food.run(*TRACKWAY, "predict", "--model", "food@champion", "--plot", ".", photos[0], check=False)
    assert "error: --plot is .; its name must end in .png" in done.stdout

    done = food.run(*TRACKWAY, "predict", "--model", "fod@champion", photos[0], check=False)
    assert done.returncode == 1
    assert "error: fod@champion is no registered model; there is food@champion" in done.stdout
    done = food.run(*TRACKWAY, "predict", "--model", "food@champion", "README.md", check=False)
    assert done.returncode == 1
    assert "error: README.md cannot be read: it is no picture of these formats" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_grid_trains_on_fractions_and_fewer_epochs_are_the_beginning_of_more(
    food: Project, mirror: Path, tmp_path: Path
) -> None:
    """`trackway add food_grid`, and two of its experiments, with fewer epochs."""
    shutil.copytree(food.folder, tmp_path / "project", symlinks=True)
    project = Project(tmp_path / "project")
    project.run(*TRACKWAY, "add", "food_grid")
    text = project.read("params.yaml")
    project.edit("params.yaml", text, text.replace("epochs: 5\n", "epochs: 1\n").replace("epochs: 10\n", "epochs: 2\n"))
    twins = ("grid-tinyvgg-10-5", "grid-tinyvgg-10-10")
    log = project.run("dvc", "repro", *(f"train@{name}" for name in twins), DATA_MIRROR=str(mirror)).stdout
    for name in twins:
        assert f"train {name}: 10,693 parameters, 22 samples (10 % of 225)" in log
    short, long = (project.read(f"plots/history/{name}.csv").splitlines() for name in twins)
    assert (len(short), long[: len(short)]) == (2, short)
    run = runs(project, "food_grid")[twins[0]]
    assert {run.data.params[key] for key in ("fraction", "samples")} == {"0.1", "22"}
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, json.loads(data.dataset.profile)) == ("food_grid 10 %", {"num_rows": 22})


def test_a_validation_part_that_lacks_classes_is_refused(food: Project, tmp_path: Path) -> None:
    shutil.copytree(food.folder, tmp_path / "project", symlinks=True)
    project = Project(tmp_path / "project")
    project.edit("params.yaml", "{test: official, shuffle: false", "{test: official, validation: 0.2, shuffle: false")
    done = project.stage("split@food", check=False)
    assert done.returncode == 1
    assert (
        "error: datasets.food.split: the validation part, cut from the end of the others, has no pizza, steak; set "
        in (done.stdout)
    )


# ---- a user's own


def blocks(seed: int, class_index: int, channels: int = 3) -> np.ndarray:
    """A picture (80, 100, channels) of large random blocks; its class is the channel that is dark."""
    rng = np.random.default_rng(1000 * class_index + seed)
    pixels = np.kron(rng.integers(0, 255, (8, 10, channels), dtype=np.uint8), np.ones((10, 10, 1), np.uint8))
    pixels[..., class_index] //= 8
    return pixels


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes; in train/cat ten odd files: each format, one truncated, a text file; duplicates across the parts."""
    root = tmp_path_factory.mktemp("photos") / "pets"
    for part, numbers in (("train", range(6)), ("test", range(6, 9))):
        for index, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for number in numbers:
                Image.fromarray(blocks(number, index)).save(root / part / name / f"{number}.jpg")
    odd = root / "train/cat"
    for number, name in enumerate(("a.png", "b.webp", "c.bmp", "d.gif", "e.jpeg")):
        Image.fromarray(blocks(20 + number, 0)).save(odd / name)
    Image.fromarray(blocks(30, 0, 4), "RGBA").save(odd / "f.png")
    Image.fromarray(blocks(31, 0)).convert("CMYK").save(odd / "g.jpg")
    Image.fromarray((blocks(32, 0)[..., 1].astype(np.uint16)) * 256).save(odd / "h.png")
    whole = (odd / "0.jpg").read_bytes()
    (odd / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (odd / "text.jpg").write_text("no photo")
    (root / "test/cat/again.jpg").write_bytes(whole)
    Image.open(odd / "1.jpg").resize((90, 72)).save(root / "test/cat/nearly.jpg", quality=60)
    return root


@pytest.fixture(scope="module")
def added(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """`trackway add-images`, then `dvc repro`, which stops at the broken files; then once more without them."""
    project = only_photos(tmp_path_factory.mktemp("own") / "project")
    shown = project.run(*TRACKWAY, "add-images", "pets", str(pets), "--size", "32").stdout
    assert "dataset pets and its first experiment pets-cnn are in params.yaml: 22 photos and 8 for testing" in shown
    return project


def test_broken_files_stop_the_stage_with_the_list(added: Project) -> None:
    done = added.run("dvc", "repro", check=False)
    assert done.returncode != 0
    assert "error: 2 of the 30 photos of pets cannot be read:" in done.stdout
    assert "data/raw/pets/train/cat/cut.jpg: " in done.stdout
    assert "data/raw/pets/train/cat/text.jpg: it is no picture of these formats: JPEG, PNG, WEBP" in done.stdout
    assert "set datasets.pets.transform.broken to leave_out" in done.stdout
    assert not (added.folder / "data/transformed/pets").exists()
    assert not (added.folder / "models").exists()


def test_left_out_and_found_twice_are_reported(added: Project) -> None:
    added.edit("params.yaml", "broken: stop", "broken: leave_out")
    log = added.run("dvc", "repro").stdout
    assert "transform pets: left out: 2 files cannot be read" in log
    assert "transform pets: duplicate: 1 photo is in test and also in train" in log
    assert "test/cat/again.jpg = train/cat/0.jpg" in log
    assert "transform pets: near-duplicate: 1 photo is in test and almost so in train" in log
    assert "test/cat/nearly.jpg ≈ train/cat/1.jpg" in log
    assert "is champion" in log
    report = json.loads(added.read("data/transformed/pets/report.json"))
    assert report["photos"] == {"test": {"cat": 5, "dog": 3}, "train": {"cat": 14, "dog": 6}}
    assert [problem["kind"] for problem in report["problems"]] == ["left out", "duplicate", "near-duplicate"]
    assert "report.json" in artifacts(added, runs(added, "pets")["pets-cnn"], "data")
    assert "up to date" in added.run("dvc", "status").stdout


def test_new_photos_are_a_new_version(added: Project, pets: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(added.folder, project.folder, symlinks=True)
    shutil.copytree(pets, tmp_path / "pets")
    project.edit("params.yaml", str(pets), str(tmp_path / "pets"))
    Image.fromarray(blocks(77, 1)).save(tmp_path / "pets/train/dog/new.jpg")
    shutil.rmtree(project.folder / "data/raw/pets")
    project.run("rm", "-rf", ".dvc/cache")
    done = project.run("dvc", "repro", check=False)
    assert done.returncode != 0
    assert "`trackway add-images pets" in done.stdout
    assert "takes what is there now" in done.stdout
    shown = project.run(*TRACKWAY, "add-images", "pets", str(tmp_path / "pets")).stdout
    assert "dataset pets has a new version: 23 photos and 8 for testing" in shown
    assert "train@pets-cnn" in project.run("dvc", "status").stdout
    project.run("dvc", "repro")


def test_a_name_that_is_taken_or_photos_that_are_not_there_change_nothing(added: Project, tmp_path: Path) -> None:
    before = added.read("params.yaml")
    for name, path, message in (
        ("pets two", str(tmp_path), "the name 'pets two' must be a letter, then letters, digits, - and _"),
        ("birds", str(tmp_path / "none"), "is not there; it must be a folder, a zip or tar archive, or a CSV table"),
        ("birds", str(tmp_path), "has no sub-folders of photos"),
    ):
        done = added.run(*TRACKWAY, "add-images", name, path, check=False)
        assert done.returncode == 1
        assert message in done.stdout
    source = load_params(added.folder / "params.yaml").datasets["pets"].source
    assert isinstance(source, Images)
    again = (*TRACKWAY, "add-images", "pets", source.path)
    assert "dataset pets has these photos already; nothing was changed" in added.run(*again).stdout
    assert "transform.mode is RGB, not L; change it in params.yaml" in added.run(*again, "--grey", check=False).stdout
    assert added.read("params.yaml") == before
    assert not list(added.folder.glob("data/*birds*"))
    assert not list(added.folder.glob("data/raw/*birds*"))
