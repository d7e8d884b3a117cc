from __future__ import annotations

import re
import shutil
import subprocess
import sys

import mlflow
import pytest
from PIL import Image

from tasks.params import load_params
from tests.support.project import ROOT, Project


def trackway(project: Project, *arguments: str, check: bool = True) -> str:
    done = project.run("python", "-m", "flows.cli", *arguments, check=check)
    assert check or done.returncode == 1
    assert "Traceback" not in done.stdout
    return done.stdout


def test_ls_shows_the_catalog_and_what_is_in_use(project: Project) -> None:
    assert "fashion_mnist" in trackway(project, "ls")
    assert "yes" not in trackway(project, "ls")
    trackway(project, "add", "fashion_mnist")
    assert "yes" in trackway(project, "ls")


def test_add_only_adds_and_the_result_is_valid(project: Project) -> None:
    before = project.read("params.yaml")
    shown = trackway(project, "add", "fashion_mnist")
    assert "datasets.fashion_mnist, experiments.fashion-v0, experiments.fashion-v1, experiments.fashion-v2" in shown
    diff = project.run("git", "diff", "--numstat", "params.yaml").stdout.split()
    assert diff[1] == "0", "a line of the user's was changed or removed"
    assert all(line in project.read("params.yaml") for line in before.splitlines())
    assert "params.yaml is fine: 5 datasets, 10 experiments" in trackway(project, "check")


def test_add_gives_new_experiments_to_a_dataset_that_is_there(project: Project) -> None:
    project.edit("params.yaml", "validation: 0.1", "validation: 0.2")
    before = project.read("params.yaml")
    assert "added to params.yaml: experiments.digits-vit, experiments.digits-tinyvgg\n" in trackway(
        project, "add", "vit"
    )
    assert project.read("params.yaml").startswith(before)
    assert "params.yaml is fine: 4 datasets, 9 experiments" in trackway(project, "check")


def test_add_twice_or_unknown_changes_nothing(project: Project) -> None:
    trackway(project, "add", "fashion_mnist")
    before = project.read("params.yaml")
    assert "datasets.fashion_mnist" in (shown := trackway(project, "add", "fashion_mnist", check=False))
    assert "are already in params.yaml; nothing was changed" in shown
    shown = trackway(project, "add", "fashion-mnist", check=False)
    assert "error: fashion-mnist is not in the catalog; it has compiled, fashion_mnist, fashion_vit, " in shown
    assert "; did you mean fashion_mnist?" in shown
    assert project.read("params.yaml") == before


def test_add_to_a_broken_file_changes_nothing(project: Project) -> None:
    project.edit("params.yaml", "lr: 0.01", "lr: 0")
    before = project.read("params.yaml")
    assert "optimizer.lr is 0; it must be > 0" in trackway(project, "add", "fashion_mnist", check=False)
    assert project.read("params.yaml") == before


def test_outside_a_project_it_says_so(project: Project) -> None:
    (project.folder / "params.yaml").rename(project.folder / "elsewhere.yaml")
    for command in ("run", "check", "results", "add"):
        arguments = (command, "fashion_mnist") if command == "add" else (command,)
        shown = trackway(project, *arguments, check=False)
        assert "params.yaml is not here; run this in the project's folder" in shown


@pytest.mark.parametrize("command", [("check",), ("run",), ("relog",), ("up",)], ids=" ".join)
def test_a_broken_graph_is_told_with_its_place(project: Project, command: tuple[str, ...]) -> None:
    project.edit("dvc.yaml", "      cmd: python -m tasks.split", "      command: python -m tasks.split")
    line = project.read("dvc.yaml").splitlines().index("  split:") + 4
    shown = trackway(project, *command, check=False)
    assert f"error: dvc.yaml, line {line}: stages.split.do.command: extra keys not allowed" in shown
    if command == ("check",):
        project.edit("dvc.yaml", "      command: python", "      cmd: python")
        project.edit("dvc.yaml", "        - datasets.${key}.split\n", "        - datasets.${key}.spli\n")
        shown = trackway(project, "check", check=False)
        assert "error: dvc.yaml: stage split@line lists the parameter datasets.line.spli, which is not in pa" in shown
        project.edit("dvc.yaml", "  split:", "  split: [")
        shown = trackway(project, "check", check=False)
        assert re.search(r"error: dvc.yaml, line \d+, column \d+ is not YAML: ", shown)


def test_check_tells_a_device_that_is_not_here_and_a_schedule_needs_no_more_than_its_time(project: Project) -> None:
    project.edit("params.yaml", "device: auto", "device: cuda:99")
    project.edit("params.yaml", ", paused: true", "")
    shown = trackway(project, "check", check=False)
    assert shown.startswith("error: device is cuda:99; this machine has cpu")
    assert load_params(project.folder / "params.yaml").flow.schedules[0].paused is False


def test_commands_work_below_the_project_s_folder_on_the_files_there(project: Project) -> None:
    here = project.folder / "notes"
    for number, name in enumerate(("cats", "dogs")):
        (here / "my photos" / name).mkdir(parents=True)
        for shade in range(8):
            Image.new("RGB", (9, 9), (20 * shade, 100 * number, 0)).save(here / "my photos" / name / f"{shade}.png")
    command = (sys.executable, "-m", "flows.cli", "add-images", "pets", "my photos")
    environment = project.environment | {"PYTHONPATH": str(project.folder)}
    subprocess.run(command, cwd=here, env=environment, check=True)
    assert "path: notes/my photos" in project.read("params.yaml").replace('"', "")
    (here / "my photos/cats/0.png").unlink()
    shutil.rmtree(project.folder / "data/raw/pets")
    shown = project.stage("download@pets", check=False).stdout
    assert "`trackway add-images pets 'notes/my photos'` takes what is there now" in shown


def test_on_windows_it_says_where_it_runs() -> None:
    """Python told that this is Windows, where there is no module `resource`."""
    for module in ("flows.cli", "tasks.train"):
        code = f"import sys; sys.platform = 'win32'; sys.modules['resource'] = None; import {module}"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("error: Trackway runs on Linux and macOS; on Windows, run it inside WSL")


def test_results_come_before_and_after_runs(project: Project, by_flow: Project) -> None:
    assert "no experiment has been evaluated; next: dvc repro, or trackway run" in trackway(project, "results")
    shown = trackway(by_flow, "results")
    assert shown.count(" champion ") == 1 + 4  # the heading and one a dataset
    assert re.search(r"line +line-linear +2 +1,000 +0\.00033 +mae +– +0\.00033 ", shown), "its own metric"


def test_results_rank_what_was_measured_and_say_what_was_not(finished: Project) -> None:
    """A metric that was just added is in no file yet; a NaN comes last, whichever stands first in params.yaml."""
    code = 'METRICS["matthews"] = Metric("classification", "higher", _sklearn("matthews_corrcoef"))\n'
    with (finished.folder / "learn/evaluation/metrics.py").open("a") as stream:
        stream.write(f"\n\n{code}")
    finished.edit(
        "params.yaml",
        "seed: 42}\n    transform: {}\n    champion: {metric: accuracy}",
        "seed: 42}\n    transform: {}\n    champion: {metric: matthews}",
    )
    finished.edit("metrics/line/line-linear.json", '"mae": ', '"mae": NaN, "was": ')
    shown = trackway(finished, "results")
    assert "circles: test matthews, which decides, is not measured yet; next: dvc repro" in shown
    assert shown.index("line-parameters") < shown.index("line-linear")
    log = finished.run("dvc", "repro", "register@circles").stdout
    assert "circles-relu stays champion" in log
    shown = trackway(finished, "results")
    assert "circles: " not in shown
    assert re.search("circles-relu.* matthews ", shown)
    assert "line-linear cannot be champion: its test mae is not a number" in finished.stage("register@line").stdout


def test_the_results_follow_mlflow_which_is_asked_again_once_its_store_has_changed(finished: Project) -> None:
    first, again = (trackway(finished, "results") for _ in range(2))
    assert first == again
    assert re.search(r"digits-cnn .* champion", first)
    client = mlflow.MlflowClient(finished.tracking_uri)
    client.delete_registered_model_alias("digits", "champion")
    after = trackway(finished, "results")
    assert not re.search(r"digits-cnn .* champion", after)
    assert re.search(r"line-linear .* champion", after)
    (finished.folder / ".dvc/tmp/results.json").write_text("{")
    assert trackway(finished, "results") == after
