"""Where runs, versions, files and data come from, and what came from them, asked in a finished project."""

from __future__ import annotations

import json
import re

import mlflow

from tasks.tracking.tags import EXPERIMENT, FLOW_RUN_ID
from tasks.workspace.files import sha256
from tasks.workspace.report import TEST_DATA_KEY
from tests.support.project import TRACKWAY, Project

ASK = """
import json, sys
from pathlib import Path
from flows.reports.lineage import lineage
from learn.errors import TrackwayError
from tasks.params import load_params

def answer(target):
    try:
        return lineage(load_params(), target)
    except TrackwayError as error:
        return error.as_message()

print(json.dumps({target: answer(target) for target in sys.argv[1:]}))
"""


def asked(project: Project, *targets: str) -> dict[str, str]:
    return json.loads(project.python(ASK, *targets).stdout.splitlines()[-1])


def md5_of(project: Project, stage: str, path: str) -> str:
    (found,) = [out["md5"] for out in project.lock["stages"][stage]["outs"] if out["path"] == path]
    return str(found)


def test_each_kind_of_thing_says_where_it_comes_from_and_what_came_from_it(by_flow: Project) -> None:
    client = mlflow.MlflowClient(by_flow.tracking_uri)
    champion = client.get_model_version_by_alias("circles", "champion")
    name = champion.tags[EXPERIMENT]
    run, state_dict = client.get_run(champion.run_id), f"models/{name}/model.pt"
    digest, folder = sha256(by_flow.folder / state_dict), "data/transformed/circles/training"
    md5 = md5_of(by_flow, "transform@circles", folder)
    samples = json.loads(by_flow.read(f"metrics/circles/{name}.report.json"))[TEST_DATA_KEY]
    of_run = (run.info.run_id, "circles@champion", f"circles/{champion.version}", state_dict, digest, name)
    of_data = (str(by_flow.folder / folder), "circles", "datasets.circles", folder, md5, md5.removesuffix(".dir"))
    others = ("data/raw/circles", f"models/{name}", f"metrics/circles/{name}.json", samples)
    wrong = ("circlez", "circles@chamion", "nothing/there", "f" * 32, "f" * 64, "data/transformed")
    found = asked(by_flow, *of_run, *of_data, *others, *wrong)

    title = f"version {champion.version} of circles (champion)"
    commit = by_flow.run("git", "rev-parse", "HEAD").stdout.strip()
    for target in of_run:
        text = found[target]
        assert f"run {run.info.run_id} ({name})" in text
        assert f"\n  data         {folder}, md5 {md5}\n  get it       dvc checkout {folder}\n" in text
        assert f"\n  code         git checkout {commit}\n" in text
        assert "optimizer.lr 0.1" in " ".join(text.split())
        assert f"\n  flow run     {run.data.tags[FLOW_RUN_ID]}" in text
        assert f"\n  state_dict   sha256 {digest}\n" in text
        assert text.endswith(f"registered from it:\n  {title}")
    assert found["circles@champion"].startswith(f"{title}\n  decision     {name} is champion (version ")
    for target in (*of_data, "data/raw/circles"):
        assert f"registered from it:\n  {title}\nruns with it:\n" in found[target]
        assert len(re.findall(r"^  run \w{32} \(circles-\w+\), FINISHED", found[target], re.MULTILINE)) == 2
    assert found["circles"].startswith(f"{folder}, md5 {md5}\n  made by      transform@circles\n  get it ")
    assert (
        f"\n  from         data/raw/circles, md5 {md5_of(by_flow, 'download@circles', 'data/raw/circles')}"
        in found[md5]
    )
    for target in others[1:3]:
        assert f"runs of {name}:\n  run {run.info.run_id} ({name}), FINISHED, {title}" in found[target]
    assert found[samples].startswith(f"held-out samples, md5 {samples}\nregistered from it:\n  {title}\n")

    assert found["circlez"].startswith(
        "error: nothing is known of circlez; it may be the id of an MLflow run, NAME@ALIAS "
    )
    assert found["circlez"].endswith("; did you mean circles?")
    assert "is no registered version; there is " in found["circles@chamion"]
    assert found["circles@chamion"].endswith("; did you mean circles@champion?")
    assert found["nothing/there"].startswith("error: nothing is known of nothing/there; it may be ")
    assert "is no run of MLflow, and no dvc.lock and no run has data with this md5" in found["f" * 32]
    assert "MLflow has no run that made the state_dict with the sha256 ffff" in found["f" * 64]
    assert "stages made several things in data/transformed; name one of data/transformed/" in found["data/transformed"]


def test_data_of_before_is_brought_back_as_it_says(finished: Project) -> None:
    """The commands of docs/lineage.md, and those that the answers show; the first from a folder below the project's."""
    folder = "data/transformed/circles/training"
    old = md5_of(finished, "transform@circles", folder)
    finished.commit("results")
    before = finished.run("git", "rev-parse", "HEAD").stdout.strip()
    finished.edit("params.yaml", "noise: 0.03, seed: 42", "noise: 0.03, seed: 43")
    told = finished.run(*TRACKWAY, "why", "train@circles-relu").stdout
    assert told.startswith(
        "train@circles-relu itself is up to date, and runs again if stages before it write something"
    )
    assert "\n  download@circles: parameter datasets.circles.source.seed: 42 → 43\n" in told
    finished.run("dvc", "repro", "train@circles-linear")
    shown = finished.run(*TRACKWAY, "lineage", "circles").stdout
    assert f"\n  other data   md5 {old}, which 2 of its runs had" in shown
    assert "(circles-linear), FINISHED\n  other data" in shown, "circles-relu was not trained on the new data"
    assert finished.run(*TRACKWAY, "why", "train@circles-linear").stdout.startswith(
        "train@circles-linear is up to date"
    )

    shown = finished.run(*TRACKWAY, "lineage", "circles@champion").stdout
    (command,) = re.findall(r"^  get it +(.*)$", shown, re.MULTILINE)
    assert command == f"git checkout {before}, then dvc checkout {folder}"
    lock = finished.read("dvc.lock")
    finished.run("git", "checkout", "dvc.lock")
    shown = finished.run(*TRACKWAY, "lineage", "experiments.circles-linear").stdout
    assert re.search(r"^  code +git checkout \w{40}, with uncommitted changes: its artifact git.diff$", shown, re.M)
    assert re.search(r"^other runs of the same:\n  run \w{32} \(circles-linear\), FINISHED$", shown, re.M)
    again = f"git checkout {before}, apply its artifact git.diff, then dvc repro transform@circles makes it again"
    assert f"\n  get it       no commit's dvc.lock has it; {again}\n" in shown
    (finished.folder / "dvc.lock").write_text(lock)
    finished.commit("other data")
    finished.run("sh", "-c", command.replace(", then", " &&"))
    assert md5_of(finished, "transform@circles", folder) == old
    assert "changed outs" not in finished.run("dvc", "status", "transform@circles").stdout


def test_without_tracking_only_data_is_known(finished: Project) -> None:
    finished.edit("params.yaml", "tracking: sqlite:///mlruns/mlflow.db", "tracking: null")
    of_runs = ("line@champion", "line-linear", "models/line-linear/model.pt", "f" * 64)
    found = asked(finished, *of_runs, "line", "data/split/line", "f" * 32)
    for target in of_runs:
        assert f"error: tracking is null in params.yaml: there is no store that knows where {target}" in found[target]
    for known in ("line", "data/split/line"):
        assert found[known].endswith("\n  runs         not known: tracking is null in params.yaml")
    assert "is no run of MLflow" in found["f" * 32]
