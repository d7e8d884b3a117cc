"""What the README and the pages in docs/ show, done."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
from ruamel.yaml import YAML

from tasks.params import load_params
from tasks.tracking.tags import STATE_DICT
from tests.support.pages import PAGES, blocks
from tests.support.project import ROOT, TRACKWAY, Project, Served

README = PAGES["README.md"]
PATH = "/usr/bin:/bin"  # without this environment's commands
MAKE = "test_every_make_target_shown_is_there"
LINEAGE = "test_each_kind_of_thing_says_where_it_comes_from_and_what_came_from_it"
TABLES = "test_a_table_goes_through_all_stages_and_stands_beside_its_yardsticks"
EXPORT = "test_the_champion_as_onnx_predicts_as_its_state_dict"
SWEEP = "test_a_sweep_survives_a_kill_and_dvc_repro_gives_its_best_state_dict"
TEAM = "test_what_one_person_has_computed_the_other_has"
WORKER = "test_a_worker_clones_the_project_and_publishes_what_it_made"
CLUSTER = "test_the_whole_pipeline_equals_a_local_one_though_a_node_dies"
# Each command line in a block of sh → the test that runs it, with names and paths of its own.
RUN_BY = {
    "make quickstart": MAKE,
    "make setup": MAKE,
    "make lint": MAKE,
    "make test-fast": MAKE,
    "make test-cluster": MAKE,
    "make test": MAKE,
    'git add --all && git commit -m "results"': (
        "test_what_a_change_did_is_shown_once_the_first_results_are_committed"
    ),
    "git checkout --ours dvc.lock && dvc repro": "test_a_conflict_in_dvc_lock_is_settled_by_the_readme_s_commands",
    "git checkout params.yaml dvc.lock && dvc checkout": (
        "test_what_is_removed_leaves_nothing_and_comes_back_from_the_cache"
    ),
    "dvc remote add --default store /path/to/store": "test_outputs_reach_another_clone_through_a_remote",
    "docker compose --file deploy/compose.yaml up --detach --build": TEAM,  # its services, as processes
    "caddy run --config deploy/Caddyfile": "test_a_proxy_adds_tls",
    "dvc remote add --default store s3://trackway/dvc": TEAM,
    "trackway run": TEAM,
    'git add --all && git commit -m "results" && git push': TEAM,
    "git clone git@HOST:TEAM/PROJECT.git project && cd project": TEAM,
    "source .venv/bin/activate": TEAM,
    "dvc repro": TEAM,
    "trackway results": TEAM,
    "ray start --head --num-cpus 0 --ray-client-server-port 10001": CLUSTER,
    "ray start --address HEAD:6379": CLUSTER,
    "trackway run --on ray://HEAD:10001": CLUSTER,
    "prefect work-pool create containers --type process": WORKER,
    "prefect deploy --name pipeline-in-containers": WORKER,
    "prefect deployment run pipeline/pipeline-in-containers": WORKER,
    "trackway push": "test_outputs_reach_another_clone_through_a_remote",
    "trackway pull": "test_outputs_reach_another_clone_through_a_remote",
    "dvc exp run --queue -S 'experiments.digits-mlp.optimizer.lr=0.05,0.01'": (
        "test_experiments_that_dvc_runs_in_a_copy_reach_the_project_s_store"
    ),
    "dvc queue start": "test_experiments_that_dvc_runs_in_a_copy_reach_the_project_s_store",
    "DATA_MIRROR=path/to/folder dvc repro": "test_the_stages_of_fashion_mnist_leave_the_project_up_to_date",
    "prefect deployment run pipeline/pipeline --param 'targets=[\"digits\"]'": "test_its_prefect_commands_start_runs",
    "prefect deployment run retrain/retrain --param dataset=digits": "test_its_prefect_commands_start_runs",
    "python -m flows.servers.database": "test_prefect_s_tables_come_from_a_database_made_once",
    "python -m tasks.atomic_dvc": "test_dvc_writes_its_lock_whole_after_the_command_shown",
    "trackway add food": "test_tiny_vgg_gives_the_course_s_digits",
    "trackway add transfer": "test_a_frozen_network_with_a_new_head_knows_nearly_all_photos",
    "trackway add-images pets path/to/pets": "test_new_photos_are_a_new_version",
    "trackway add-table houses path/to/houses.csv --target price": TABLES,
    "trackway add wine": TABLES,
    "trackway compare": "test_it_is_compared_in_the_terminal_and_as_markdown",
    "trackway compare digits --out report.html": "test_the_page_is_sorted_by_mouse_and_keyboard",
    "trackway compare digits-mlp digits-cnn --out report.md": "test_it_is_compared_in_the_terminal_and_as_markdown",
    "trackway check": "test_a_broken_graph_is_told_with_its_place",
    "trackway down": "test_history_and_schedules_outlive_down_and_up",
    "trackway lineage digits@champion": LINEAGE,
    "trackway lineage digits-mlp": LINEAGE,
    "trackway lineage models/digits-mlp/seed-42/model.pt": LINEAGE,
    "trackway lineage data/raw/digits": LINEAGE,
    "trackway lineage digits": LINEAGE,
    "trackway why train@digits-mlp": "test_data_of_before_is_brought_back_as_it_says",
    "trackway predict --model food@champion photo.jpg photos/ --out found.csv": (
        "test_the_champion_predicts_photos_as_it_did_when_it_was_measured"
    ),
    "trackway predict --model houses@champion path/to/houses.csv --out found.csv": TABLES,
    "trackway predict --model line@champion 0.5": "test_numbers_are_predicted_on_the_command_line",
    "trackway predict --model food@champion --plot prediction.png photo.jpg": (
        "test_the_champion_predicts_photos_as_it_did_when_it_was_measured"
    ),
    'trackway promote digits digits-mlp --because "smaller on disk"': "test_a_champion_is_chosen_by_hand_and_goes_back",
    "trackway rollback digits": "test_a_champion_is_chosen_by_hand_and_goes_back",
    "trackway export digits@champion --format onnx --out digits.onnx": EXPORT,
    "trackway export digits@champion --format onnx --int8 --out digits-int8.onnx": EXPORT,
    "trackway relog": "test_outputs_reach_another_clone_through_a_remote",
    "trackway export food@champion --format space --out food-space": (
        "test_a_space_says_of_a_photo_what_evaluate_predicted"
    ),
    "trackway export food@champion --format docker --out food-image": "test_a_container_s_command_serves_the_model",
    "trackway serve food@champion": "test_its_page_says_of_a_dropped_photo_what_evaluate_predicted",
    "trackway serve digits/1 --port 9000": "test_numbers_and_a_version_are_served_too",
    "trackway remove blobs --with-experiments": "test_what_is_removed_leaves_nothing_and_comes_back_from_the_cache",
    "trackway remove digits-mlp": "test_what_is_removed_leaves_nothing_and_comes_back_from_the_cache",
    "trackway rename digits-cnn digits-conv": "test_what_is_renamed_is_not_trained_again_and_stays_champion",
    "trackway status": "test_up_says_what_runs_already_and_status_what_answers",
    "trackway sweep digits-mlp -S 'optimizer.lr=loguniform(1e-4,1)' -S 'model.hidden_units=[[32],[64],[128]]' "
    "--trials 30": SWEEP,
    "trackway sweep digits-mlp": SWEEP,
    "trackway sweep digits-mlp --apply": SWEEP,
    "trackway compare --sweep digits-mlp": SWEEP,
    "trackway compare --sweep --out sweep.md": SWEEP,
    "trackway up": "test_history_and_schedules_outlive_down_and_up",
}


def commands() -> list[str]:
    """The command lines in blocks of sh, without their comments."""
    lines = "\n".join(blocks("sh")).splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.strip()]


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchor(heading: str) -> str:
    """What a heading is called in an address, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_each_command_shown_is_run_by_a_test() -> None:
    assert set(commands()) == set(RUN_BY)
    files = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    for test in set(RUN_BY.values()):
        assert any(f"def {test}(" in text for text in files), f"{test} is gone: which test runs its command now?"


def test_every_relative_link_leads_to_a_file_and_a_heading() -> None:
    for page, text in PAGES.items():
        for target in re.findall(r"\]\((?!https?://)([^)]+)\)", without_code(text)):
            file, _, heading = target.partition("#")
            path = (ROOT / page).parent / file if file else ROOT / page
            assert path.is_file(), f"{page} links to {target}"
            headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE) if heading else []
            assert not heading or heading in map(anchor, headings), f"{page} links to {target}"
    assert {page for page in PAGES if f"({page})" in README} == set(PAGES) - {"README.md"}, "the README names all pages"


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 170


def test_the_readme_s_lines_of_params_yaml_are_those_of_the_file() -> None:
    (shown,) = blocks("yaml", "README.md")
    yaml = YAML(typ="safe")
    file = yaml.load(ROOT / "params.yaml")
    for section, entries in yaml.load(shown).items():
        for name, entry in entries.items():
            assert entry == file[section][name], f"{section}.{name}"


def test_its_table_is_what_the_experiments_give(finished: Project) -> None:
    """But for the seconds, and for what a convolution's rounding makes of digits-cnn on another kind of processor.

    Only digits is trained and registered anew, for most tests have it with one seed.
    """
    shutil.copy(ROOT / "params.yaml", finished.folder)
    mlflow.MlflowClient(finished.tracking_uri).delete_registered_model("digits")
    finished.run(*TRACKWAY, "run", "digits")
    shown = finished.run(*TRACKWAY, "results").stdout.splitlines()
    (table,) = (block for block in blocks("text", "README.md") if "parameters  epochs" in block)
    experiments = load_params(ROOT / "params.yaml").experiments
    rows = [line for line in table.splitlines() if len(line.split()) > 1 and line.split()[1] in experiments]
    assert len(rows) == len(experiments)
    assert {_exact(row) for row in rows} <= {_exact(line) for line in shown}


def _exact(row: str) -> tuple[str, ...]:
    """The cells of a row that are the same everywhere."""
    cells = re.split(r" {2,}", row.strip())
    if "digits-cnn" in row:
        return (*cells[:4], cells[-1])
    return tuple(cell for cell in cells if not re.fullmatch(r"\d+\.\d", cell))


def test_the_examples_of_a_dataset_a_model_and_a_metric_work(finished: Project) -> None:
    for code in blocks("python", "docs/your-own.md"):
        file, _, content = code.removeprefix("# ").partition("\n")
        path = finished.folder / file
        path.write_text(path.read_text() + "\n\n" + content if path.exists() else content, encoding="utf-8")
    (yaml,) = blocks("yaml", "docs/your-own.md")
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


def test_every_make_target_shown_is_there() -> None:
    """Its recipe is printed, not run: they take minutes, and this test is part of one."""
    shown = re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", "\n".join(PAGES.values()), re.MULTILINE)
    targets = {"".join(target) for target in shown}
    assert {command.removeprefix("make ") for command, test in RUN_BY.items() if test == MAKE} <= targets
    done = subprocess.run(
        ["make", "--dry-run", *sorted(targets)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_its_trackway_commands_are_those_that_there_are(project: Project) -> None:
    shown = set(re.findall(r"(?:^|`)trackway ([a-z][\w-]*)", "\n".join(PAGES.values()), re.MULTILINE))
    help_ = project.run("python", "-m", "flows.cli", "--help", COLUMNS="120", NO_COLOR="1").stdout
    assert shown == set(re.findall(r"^│ ([a-z][a-z-]*) ", help_, re.MULTILINE)), help_


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
    assert re.search(r" loss +0\.12879 +0\.\d+ +-0\.\d+$", shown, re.MULTILINE), shown

    assert finished.run("git", "status", "--porcelain").stdout.split() == ["M", "dvc.lock", "M", "params.yaml"]
    finished.run("sh", "-c", command, check=True, **author)
    assert finished.run("git", "status", "--porcelain").stdout == ""
    again = finished.python("from flows.cli.run import next_steps; print(next_steps())").stdout
    assert again.startswith("Compare and watch:"), "nothing is left to commit"
    outside = finished.run(sys.executable, "-c", "from flows.cli.run import next_steps; print(next_steps())", PATH=PATH)
    assert outside.stdout.startswith("Find the commands:     source .venv/bin/activate\nCompare and watch:")


def test_its_tree_names_every_file_and_package_of_the_source() -> None:
    """Files in the layers themselves, with or without .py; of the packages below them, the packages."""
    (tree,) = (block for block in blocks("text", "README.md") if block.startswith("params.yaml"))
    for layer in ("learn", "tasks", "flows", "web"):
        for path in (ROOT / layer).glob("*.py"):
            assert path.name == "__init__.py" or re.search(rf"\b{path.stem}\b", tree), path
        for path in (ROOT / layer).glob("**/__init__.py"):
            assert f"{path.parent.name}/" in tree, path.parent


def test_the_table_of_course_numbers_is_the_golden_one() -> None:
    golden = json.loads((ROOT / "tests/golden/numbers.json").read_text(encoding="utf-8"))
    for name, expected in (golden["state_dict"] | golden["history"] | golden["photos"]).items():
        (row,) = re.findall(rf"^\| \d \| {name} \|.*$", PAGES["docs/course.md"], re.MULTILINE)
        assert row.count(", ".join(str(value) for value in expected.values())) == 2, row


def test_its_prefect_commands_start_runs(served: Served) -> None:
    commands = re.findall(r"^prefect deployment run .*$", "\n".join(blocks("sh", "docs/deployments.md")), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        shown = served.run(*shlex.split(command)).stdout
        run = re.search(r"UUID: (\S+)", shown)
        assert run, shown
        assert served.wait_for(run[1])["state"]["name"] == "Completed"


def test_the_pictures_are_small_and_all_are_shown() -> None:
    pictures = {Path(name).name for text in PAGES.values() for name in re.findall(r"!\[.+\]\((.+)\)", text)}
    files = list((ROOT / "docs").glob("*.png"))
    assert pictures == {file.name for file in files}
    assert all(file.stat().st_size < 100_000 for file in files)


def test_outputs_reach_another_clone_through_a_remote(finished: Project, tmp_path: Path) -> None:
    """The commands of docs/storing.md, the last two in a clone, where there is no cache and no store of MLflow."""
    lines = [line.partition(" #")[0] for line in blocks("sh", "docs/storing.md")[0].splitlines()]
    add, push, pull, relog = (shlex.split(line) for line in lines)
    done = finished.run(*TRACKWAY, *push[1:], check=False)
    assert done.returncode == 1
    assert "error: there is no default DVC remote to share outputs through; add one" in done.stdout
    finished.run(*add[:-1], str(tmp_path / "store"))
    assert (
        "digits's champion, version 1 (digits-cnn): its state_dict is in the remote"
        in finished.run(*TRACKWAY, *push[1:]).stdout
    )
    finished.commit("results")
    clone = Project(tmp_path / "clone")
    finished.run("git", "clone", "--quiet", ".", str(clone.folder))
    clone.run(*TRACKWAY, *pull[1:])
    assert clone.run("dvc", "status").stdout.strip().endswith("Data and pipelines are up to date.")
    assert relog == ["trackway", "relog"]
    told = clone.run("python", "-m", "flows.cli", "relog").stdout
    assert "relog digits-cnn: rebuilt" in told
    client = mlflow.MlflowClient(clone.tracking_uri)
    client.set_model_version_tag("digits", "1", STATE_DICT, 64 * "0")  # as if somebody else had trained it
    done = clone.run(*TRACKWAY, *push[1:], check=False)
    assert done.returncode == 1
    assert "digits's champion, version 1 (digits-cnn): DVC's cache here does not have its state_dict" in done.stdout


def test_dvc_writes_its_lock_whole_after_the_command_shown(project: Project, tmp_path: Path) -> None:
    """In an environment of its own: the command writes the line that Python reads when it starts."""
    subprocess.run(["python3", "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    project.run(str(tmp_path / "venv/bin/python"), "-m", "tasks.atomic_dvc")
    (written,) = (tmp_path / "venv").rglob("trackway.pth")
    assert "tasks.atomic_dvc" in written.read_text(encoding="utf-8")


def test_an_environment_that_was_moved_is_made_again(project: Project) -> None:
    """Only what make would do: it takes minutes."""
    (project.folder / ".venv").mkdir()
    stamp = project.folder / ".venv/.installed"
    stamp.write_text(f"{project.folder}\n")
    assert "venv" not in project.run("make", "--dry-run", "setup").stdout
    stamp.write_text("/elsewhere\n")
    assert "python3 -m venv --clear .venv" in project.run("make", "--dry-run", "setup").stdout
