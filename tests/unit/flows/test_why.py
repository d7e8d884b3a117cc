"""What made a stage stale, in a small project of git and DVC."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.graph import Graph
from flows.reports.why import why
from learn.errors import ParamsError

STAGES = """
stages:
  evaluate:
    foreach: [a]
    do:
      cmd: cp model/weights score
      deps: [model]
      outs: [score]
  train:
    foreach: [a]
    do:
      cmd: mkdir -p model && cp data/one model/weights
      params: [train, threads]
      deps: [data, code, run.py]
      outs: [model]
  split:
    foreach: [d]
    do:
      cmd: mkdir -p data && echo 1 > data/one && echo 2 > data/two
      params: [seed]
      outs: [data]
"""
PARAMS = "seed: 42\nthreads: 1\ntrain: {lr: 0.1, model: {name: mlp, units: [8]}, scheduler: null}\n"
READS = """it runs again for a change of
  parameters in params.yaml: train, threads
  data: data
  code: code, run.py"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which all stages have run. Not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in ("init", "config user.name Test", "config user.email test@example.org"):
            subprocess.run(["git", *command.split()], check=True, capture_output=True)
        Repo.init(".").close()
        (folder / "code").mkdir()
        for file, text in {
            "dvc.yaml": STAGES,
            "params.yaml": PARAMS,
            "run.py": "1",
            "code/loop.py": "1",
            "code/a.py": "",
        }.items():
            (folder / file).write_text(text, encoding="utf-8")
        (folder / ".gitignore").write_text("/data\n/model\n/score\n", encoding="utf-8")
        with Repo() as repo:
            repo.reproduce()
        subprocess.run(["git", "add", "--all"], check=True)
        subprocess.run(["git", "commit", "--quiet", "--message", "made"], check=True)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def answer(folder: Path, target: str = "train@a") -> str:
    return why(Graph(folder), target)


def test_what_is_up_to_date_says_what_it_depends_on(folder: Path) -> None:
    assert answer(folder) == f"train@a is up to date\n{READS}"


def test_an_experiment_means_all_of_its_stages(folder: Path) -> None:
    texts = answer(folder, "a").split("\n\n")
    assert [text.splitlines()[0] for text in texts] == ["train@a is up to date", "evaluate@a is up to date"]


def test_an_unknown_stage_is_refused_with_what_was_meant(folder: Path) -> None:
    with pytest.raises(ParamsError, match="target trian@a is no stage, dataset or experiment; did you mean train@a"):
        answer(folder, "trian@a")


def test_changed_parameters_are_shown_with_both_values(folder: Path) -> None:
    (folder / "params.yaml").write_text(
        "seed: 42\nthreads: 2\ntrain: {lr: 0.2, model: {name: mlp, units: [8, 8]}, scheduler: ö, epochs: 3}\n"
    )
    assert answer(folder).splitlines()[:6] == [
        "train@a is stale:",
        "  parameter threads: 1 → 2",
        "  parameter train.lr: 0.1 → 0.2",
        "  parameter train.model.units: [8] → [8, 8]",
        '  parameter train.scheduler: null → "ö"',
        "  parameter train.epochs: not there → 3",
    ]
    assert answer(folder).endswith(READS)


def test_a_stage_that_only_others_make_stale_names_them(folder: Path) -> None:
    (folder / "params.yaml").write_text(PARAMS.replace("42", "43").replace("0.1", "0.2"))
    assert answer(folder, "evaluate").splitlines()[:4] == [
        "evaluate@a itself is up to date, and runs again if stages before it write something else",
        "stages before it are stale:",
        "  split@d: parameter seed: 42 → 43",
        "  train@a: parameter train.lr: 0.1 → 0.2",
    ]


def test_of_changed_code_the_files_are_named_if_git_has_what_ran(folder: Path) -> None:
    (folder / "code/loop.py").write_text("2")
    (folder / "code/new.py").write_text("")
    (folder / "code/a.py").unlink()
    (folder / "run.py").write_text("2")
    expected = ["code/a.py is missing", "code/loop.py has changed", "code/new.py is new", "run.py has changed"]
    assert answer(folder).splitlines()[1:5] == [f"  code {what}" for what in expected]
    subprocess.run(["git", "add", "--all"], check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", "changed"], check=True)
    assert answer(folder).splitlines()[1:5] == [f"  code {what}" for what in expected], "it is in an earlier commit"
    shutil.rmtree(folder / ".git")
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    assert answer(folder).splitlines()[1:3] == ["  code code has changed", "  code run.py has changed"]


def test_of_changed_data_the_files_are_named(folder: Path) -> None:
    (folder / "data/one").unlink()
    (folder / "data/three").write_text("3")
    assert answer(folder).splitlines()[:5] == [
        "train@a is stale:",
        "  data data/one is missing",
        "  data data/three is new",
        "stages before it are stale:",
        "  split@d: output data/one is missing; output data/three is new",
    ]


def test_missing_outputs_and_what_never_ran_are_told(folder: Path) -> None:
    shutil.rmtree(folder / "model")
    assert answer(folder).splitlines()[:2] == ["train@a is stale:", "  output model is missing"]
    (folder / "dvc.lock").unlink()
    assert answer(folder).splitlines()[:2] == ["train@a is stale:", "  it has never run: dvc.lock does not have it"]
    assert "  split@d: it has never run: dvc.lock does not have it" in answer(folder).splitlines()


def test_many_changed_files_are_counted(folder: Path) -> None:
    for number in range(8):
        (folder / f"code/{number}.py").write_text("")
    lines = answer(folder).splitlines()
    assert lines[5:7] == ["  code code/4.py is new", "  code code: 3 more files are different"]
    assert "  train@a: code code/0.py is new; code code/1.py is new; code code/2.py is new and 3 more" in answer(
        folder, "evaluate@a"
    )


def test_another_command_is_told(folder: Path) -> None:
    (folder / "dvc.yaml").write_text(STAGES.replace("cp data/one", "cp data/two"))
    assert answer(folder).splitlines()[:2] == ["train@a is stale:", "  command is another one in dvc.yaml"]
