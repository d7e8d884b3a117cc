from __future__ import annotations

from tests.conftest import Project


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


def test_add_twice_or_unknown_changes_nothing(project: Project) -> None:
    trackway(project, "add", "fashion_mnist")
    before = project.read("params.yaml")
    assert "datasets.fashion_mnist" in (shown := trackway(project, "add", "fashion_mnist", check=False))
    assert "are already in params.yaml; nothing was changed" in shown
    shown = trackway(project, "add", "fashion-mnist", check=False)
    assert "error: fashion-mnist is not in the catalog; it has fashion_mnist, food; did you mean" in shown
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


def test_results_come_before_and_after_runs(project: Project, by_flow: Project) -> None:
    assert "no experiment has been evaluated; next: dvc repro, or trackway run" in trackway(project, "results")
    shown = trackway(by_flow, "results")
    assert shown.count(" champion ") == 1 + 4  # the heading and one a dataset
