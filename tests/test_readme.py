"""What the README shows, done."""

from __future__ import annotations

import json
import re
import shlex

from tests.conftest import ROOT, Project, Served

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_examples_of_a_dataset_a_model_and_a_metric_work(finished: Project) -> None:
    for code in blocks("python"):
        file, _, content = code.removeprefix("# ").partition("\n")
        path = finished.folder / file
        path.write_text(path.read_text() + "\n\n" + content if path.exists() else content, encoding="utf-8")
    (yaml,) = blocks("yaml")
    datasets, experiments = yaml.removeprefix("datasets:\n").split("experiments:\n")
    finished.edit("params.yaml", "datasets:\n", f"datasets:\n{datasets}")
    finished.edit("params.yaml", "experiments:\n", f"experiments:\n{experiments}")

    log = finished.run("dvc", "repro", "register@moons").stdout
    ran = [line.split("'")[1] for line in log.splitlines() if line.startswith("Running stage")]
    ran.remove("group@experiments")  # the list of all experiments, any time before register
    assert ran == [
        *(f"{kind}@moons" for kind in ("download", "split", "transform")),
        *(f"{kind}@moons-wide" for kind in ("train", "evaluate")),
        "register@moons",
    ]
    stale = finished.run("dvc", "status").stdout
    assert "evaluate@digits-mlp" in stale, "the new metric is for every classifier"
    assert "train@" not in stale, "nothing else is trained again"
    metrics = json.loads(finished.read("metrics/moons/moons-wide.json"))
    assert metrics["matthews"] > 0.9
    assert "moons-wide is champion (version 1, validation matthews " in log


def test_its_make_targets_and_trackway_commands_are_there(project: Project) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make (\w+)|`make (\w+)`", README, re.MULTILINE)):
        assert f"\n{''.join(target)}: " in makefile, target
    help_ = project.run("python", "-m", "flows.cli", "--help").stdout
    commands = set(re.findall(r"^trackway ([\w-]+)", "\n".join(blocks("sh")), re.MULTILINE))
    assert commands == {
        "ls", "add", "add-images", "remove", "rename", "predict", "run", "results", "check", "relog",
        "up", "status", "down",
    }  # fmt: skip
    assert all(command in help_ for command in commands)


def test_what_a_change_did_is_shown_once_the_first_results_are_committed(finished: Project) -> None:
    """quickstart, commit, change, repro, diff; the commands are those that the README and quickstart show."""
    author = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    assert finished.run("git", "ls-files", "dvc.lock").stdout == "", "none ships: another processor's would be foreign"
    shown = finished.run("python", "-m", "flows.cli", "run", "digits-mlp").stdout
    (command,) = re.findall(r"^Keep these results: +(git .*) \(dvc metrics diff", shown, re.MULTILINE)
    assert command in "\n".join(blocks("sh"))
    finished.run("sh", "-c", command, check=True, **author)

    finished.edit("params.yaml", "lr: 0.1}\n    epochs: 30", "lr: 0.2}\n    epochs: 30")
    log = finished.run("dvc", "repro").stdout
    ran = ["group@experiments", "train@digits-mlp", "evaluate@digits-mlp", "register@digits"]
    assert re.findall(r"Running stage '(.+)'", log) == ran
    shown = finished.run("dvc", "metrics", "diff").stdout
    assert "failed to load" not in shown
    assert set(re.findall(r"metrics/\S+", shown)) == {"metrics/digits/digits-mlp.json"}
    assert re.search(r" loss +0\.15 +0\.\d+ +-?0\.\d+$", shown, re.MULTILINE), shown

    assert finished.run("git", "status", "--porcelain").stdout.split() == ["M", "dvc.lock", "M", "params.yaml"]
    finished.run("sh", "-c", command, check=True, **author)
    assert finished.run("git", "status", "--porcelain").stdout == ""
    again = finished.run("python", "-c", "from flows.cli.run import next_steps; print(next_steps())").stdout
    assert again.startswith("Compare and watch:"), "nothing is left to commit"


def test_its_tree_names_every_file_of_the_source() -> None:
    tree = next(block for block in blocks("text") if block.startswith("params.yaml"))
    for layer in ("learn", "tasks", "flows"):
        for path in (ROOT / layer).glob("*.py"):
            assert path.name == "__init__.py" or path.name in tree, path


def test_the_table_of_course_numbers_is_the_golden_one() -> None:
    golden = json.loads((ROOT / "tests/golden/numbers.json").read_text(encoding="utf-8"))
    for name, expected in (golden["state_dict"] | golden["history"] | golden["photos"]).items():
        (row,) = re.findall(rf"^\| \d \| {name} \|.*$", README, re.MULTILINE)
        assert row.count(", ".join(str(value) for value in expected.values())) == 2, row


def test_its_prefect_commands_start_runs(served: Served) -> None:
    commands = re.findall(r"^prefect deployment run .*$", "\n".join(blocks("sh")), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        shown = served.run(*shlex.split(command)).stdout
        run = re.search(r"UUID: (\S+)", shown)
        assert run, shown
        assert served.wait_for(run[1])["state"]["name"] == "Completed"


def test_its_pictures_are_there() -> None:
    pictures = re.findall(r"!\[.+\]\((.+)\)", README)
    assert len(pictures) == 3
    assert all((ROOT / picture).stat().st_size < 100_000 for picture in pictures)


def test_its_deployment_for_containers_can_be_deployed(served: Served) -> None:
    served.run("prefect", "work-pool", "create", "containers", "--type", "docker")
    shown = served.run("prefect", "--no-prompt", "deploy", "--name", "pipeline-in-containers").stdout
    assert "successfully created" in shown
    found = served.ask("deployments/name/pipeline/pipeline-in-containers")
    steps = [next(iter(step)).rpartition(".")[2] for step in found["pull_steps"]]
    assert steps == ["git_clone", "run_shell_script", "run_shell_script"]
    assert found["pull_steps"][-1]["prefect.deployments.steps.run_shell_script"]["script"].startswith("dvc pull")


def test_an_environment_that_was_moved_is_made_again(project: Project) -> None:
    """Only what make would do: it takes minutes."""
    (project.folder / ".venv").mkdir()
    stamp = project.folder / ".venv/.installed"
    stamp.write_text(f"{project.folder}\n")
    assert "venv" not in project.run("make", "--dry-run", "setup").stdout
    stamp.write_text("/elsewhere\n")
    assert "python3 -m venv --clear .venv" in project.run("make", "--dry-run", "setup").stdout
