"""`trackway up`: real servers, started once for all tests; what they run, show and survive."""

from __future__ import annotations

import datetime
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import requests
from ruamel.yaml import YAML

from tests.conftest import TRACKWAY, Project, Served, Webhook, free_port, wait_until

LONG = "    epochs: 30\n", "    epochs: 30000\n"


def test_up_says_what_runs_already_and_status_what_answers(served: Served) -> None:
    for command in ("up", "status"):
        shown = served.run(*TRACKWAY, command).stdout
        for address in (served.prefect, served.mlflow):
            assert re.search(rf"{address} +running", shown), shown
    assert "running already" in served.run(*TRACKWAY, "up").stdout
    assert served.ask("admin/settings")["server"]["analytics_enabled"] is False
    listening = {
        c.laddr.ip for p in served.processes("python") for c in p.net_connections("tcp") if c.status == "LISTEN"
    }
    assert listening == {"127.0.0.1"}


def test_prefect_s_commands_in_the_folder_ask_this_server(served: Served) -> None:
    shown = served.run("prefect", "deployment", "ls").stdout
    assert "pipeline/pipeline" in shown
    assert "retrain/retrain" in shown
    assert "temporary server" not in shown


def test_a_schedule_fires_by_itself_and_its_run_shows_everything(served: Served) -> None:
    deployment = served.ask("deployments/name/retrain/retrain")
    (schedule,) = deployment["schedules"]
    assert (schedule["schedule"]["interval"], schedule["active"]) == (600, False)
    assert deployment["global_concurrency_limit"]["limit"] == 1
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=10)
    new = [{"schedule": {"interval": 3600, "anchor_date": soon.isoformat()}, "active": True}]
    (made,) = served.ask(f"deployments/{served.ask('deployments/name/pipeline/pipeline')['id']}/schedules", new)
    find = {"flow_runs": {"tags": {"all_": ["auto-scheduled"]}, "state": {"type": {"any_": ["COMPLETED"]}}}}
    (run,) = wait_until(lambda: served.ask("flow_runs/filter", find), 90)
    requests.delete(f"{served.prefect}/api/deployments/{made['deployment_id']}/schedules/{made['id']}", timeout=10)

    assert run["name"] == "pipeline: everything"
    assert run["state"]["message"] == "30 stages: 0 run, 30 up to date"
    tasks = served.tasks(run["id"])
    assert len(tasks) == 30
    assert tasks["train digits-mlp"] == "Cached"
    graph = served.ask(f"flow_runs/{run['id']}/graph-v2")
    label = {node["id"]: node["label"] for _, node in graph["nodes"]}
    needs = {node["label"]: {label[parent["id"]] for parent in node["parents"]} for _, node in graph["nodes"]}
    assert needs["evaluate digits-cnn"] == {"transform digits", "train digits-cnn"}, "DVC's graph is Prefect's"
    (artifact,) = (a for a in graph["artifacts"] if a["key"] == "results")
    table = served.ask(f"artifacts/{artifact['id']}")["data"]
    link = re.search(r"\[circles-relu\]\((\S+)/#/experiments/(\d+)/runs/(\w+)\)", table)
    assert link, table
    assert link[1] == served.mlflow
    found = requests.get(f"{served.mlflow}/api/2.0/mlflow/runs/get", {"run_id": link[3]}, timeout=30).json()
    assert found["run"]["info"]["run_name"] == "circles-relu"


def test_a_run_started_through_the_api_trains_and_both_sides_link_to_each_other(served: Served) -> None:
    run = served.wait_for(served.start_run("retrain", dataset="digits"))
    assert (run["name"], run["state"]["name"]) == ("retrain: digits", "Completed")
    assert run["state"]["message"] == "8 stages: 5 run, 3 up to date"
    logs = served.logs(run["id"])
    for epoch in (1, 2, 30):
        assert f"train digits-mlp: epoch {epoch}/30, train/loss " in logs
    client = mlflow.MlflowClient(served.mlflow)
    experiment = client.get_experiment_by_name("digits")
    assert experiment
    newest = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"], max_results=2)
    page = f"{served.prefect}/runs/flow-run/{run['id']}"
    for tracked in newest:
        assert tracked.data.tags["prefect.flow_run"] == run["id"]
        assert page in tracked.data.tags["mlflow.note.content"]


def test_prefect_s_command_starts_runs_and_the_second_waits_for_the_first(served: Served) -> None:
    command = ("prefect", "deployment", "run", "pipeline/pipeline", "--param", 'targets=["line"]')
    ids = [re.search(r"UUID: (\S+)", served.run(*command).stdout)[1] for _ in range(2)]  # type: ignore[index]
    runs = sorted((served.wait_for(run) for run in ids), key=lambda run: run["start_time"])
    assert [run["state"]["name"] for run in runs] == ["Completed", "Completed"]
    assert runs[0]["end_time"] <= runs[1]["start_time"]


def test_python_starts_runs(served: Served) -> None:
    code = (
        "from prefect.deployments import run_deployment; "
        "run = run_deployment('pipeline/pipeline', parameters={'targets': ['split@line']}, timeout=60); "
        "print(run.state.name, run.state.message)"
    )
    assert "Completed 2 stages: 0 run, 2 up to date" in served.run("python", "-c", code).stdout


@pytest.fixture
def edited(served: Served) -> Iterator[Served]:
    """The served project, whose params.yaml may be edited; afterwards it is as before."""
    before = served.read("params.yaml")
    yield served
    (served.folder / "params.yaml").write_text(before, encoding="utf-8")
    assert served.run(*TRACKWAY, "run", "digits-mlp").returncode == 0
    assert "up to date" in served.run("dvc", "status").stdout


def training(project: Project) -> list[psutil.Process]:
    return project.processes("tasks.train digits-mlp") + project.processes("tasks.tracking")


def latest_status(project: Project) -> str:
    client = mlflow.MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name("digits")
    assert experiment
    return client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])[0].info.status


def test_a_cancelled_run_takes_its_processes_with_it(edited: Served) -> None:
    edited.edit("params.yaml", *LONG)
    run = edited.start_run("pipeline", targets=["digits-mlp"])
    wait_until(lambda: "epoch 300/30000" in edited.logs(run), 60)
    assert latest_status(edited) == "RUNNING"
    edited.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    wait_until(lambda: not training(edited), 10)
    assert latest_status(edited) == "KILLED"
    assert edited.wait_for(run, seconds=30)["state"]["name"] == "Cancelled"


def test_a_run_outlives_the_death_of_prefect_s_server(served: Served) -> None:
    before = served.lock
    served.forget("train@digits-mlp", "evaluate@digits-mlp", "register@digits")
    run = served.start_run("pipeline", targets=["digits"])
    wait_until(lambda: "train digits-mlp: 4,810 parameters" in served.logs(run), 60)
    (server,) = served.processes("prefect server start")
    server.kill()
    wait_until(lambda: answers(served), 60)
    assert served.wait_for(run)["state"]["name"] == "Completed"
    assert served.lock == before


def answers(project: Served) -> bool:
    try:
        return bool(requests.get(f"{project.prefect}/api/health", timeout=2).ok)
    except requests.RequestException:
        return False


def test_a_worker_elsewhere_clones_the_project_and_pulls_its_data(
    served: Served, finished: Project, tmp_path: Path
) -> None:
    """`prefect.yaml` as it is, but for the address, the container and the installation in it."""
    finished.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    finished.run("dvc", "push")
    finished.commit("results")
    described = YAML().load(finished.read("prefect.yaml"))
    clone, install, pull = (next(iter(step.values())) for step in described["pull"])
    assert (clone["id"], install["id"], pull["id"]) == ("clone", "install", "pull-data")
    clone["repository"] = f"file://{finished.folder}"
    clone["branch"] = finished.run("git", "branch", "--show-current").stdout.strip()
    del described["pull"][1]
    with (tmp_path / "prefect.yaml").open("w") as stream:
        YAML().dump(described, stream)
    (deployment,) = described["deployments"]
    name, pool = deployment["name"], deployment["work_pool"]["name"]

    served.run("prefect", "work-pool", "create", pool, "--type", "process")
    served.run("prefect", "--no-prompt", "deploy", "--name", name, "--prefect-file", str(tmp_path / "prefect.yaml"))
    made = served.ask(f"deployments/name/pipeline/{name}")
    run = served.ask(f"deployments/{made['id']}/create_flow_run", {})["id"]
    log = served.run("prefect", "worker", "start", "--pool", pool, "--run-once").stdout
    served.run("prefect", "--no-prompt", "work-pool", "delete", pool)
    served.run("prefect", "--no-prompt", "deployment", "delete", f"pipeline/{name}")
    assert served.ask(f"flow_runs/{run}")["state"]["message"] == "30 stages: 0 run, 30 up to date", log


def test_a_failure_is_told_to_a_webhook(edited: Served, webhook: Webhook) -> None:
    edited.edit("params.yaml", "notify: []", f'notify: ["{webhook.address}"]')
    edited.edit("params.yaml", "train: 86400", "train: 3")
    edited.edit("params.yaml", *LONG)
    run = edited.wait_for(edited.start_run("pipeline", targets=["digits-mlp"]))
    told = wait_until(lambda: webhook.told, 20)
    why = "train@digits-mlp took longer than 3 s and was stopped; flow.timeouts.train in params.yaml says"
    assert run["state"]["name"] == "Failed"
    assert why in run["state"]["message"]
    assert edited.tasks(run["id"])["train digits-mlp"] == "TimedOut"
    assert not training(edited)
    assert told[0]["title"] == "Trackway: pipeline: digits-mlp ended Failed"
    assert why in told[0]["message"]


def test_what_crashes_is_started_again(served: Served) -> None:
    (server,) = served.processes("-m mlflow server")
    server.kill()
    wait_until(lambda: (new := served.processes("-m mlflow server")) and new[0].pid != server.pid, 30)
    (server,) = served.processes("-m mlflow server")
    wait_until(lambda: server.children() and served.run(*TRACKWAY, "status", check=False).returncode == 0, 60)
    assert served.processes("uvicorn") == server.children(), "no worker of the killed server holds the port"


def test_history_and_schedules_outlive_down_and_up(by_flow: Project, served: Served) -> None:
    before = len(served.ask("flow_runs/filter", {}))
    ports = [
        f"--{name}-port={url.rpartition(':')[2]}"
        for name, url in (("prefect", served.prefect), ("mlflow", served.mlflow))
    ]
    mark = json.loads(served.read(".servers/servers.json"))["mark"]
    assert "stopped" in served.run(*TRACKWAY, "down").stdout
    marked = [p for p in psutil.process_iter() if _environ(p).get("TRACKWAY_SERVERS") == mark]
    assert marked == []
    assert "nothing was running" in served.run(*TRACKWAY, "down").stdout
    assert "nothing is running" in served.run(*TRACKWAY, "status", check=False).stdout
    served.run(*TRACKWAY, "up", *ports, f"--serve-port={free_port()}")
    assert len(served.ask("flow_runs/filter", {})) == before
    (schedule,) = served.ask("deployments/name/retrain/retrain")["schedules"]
    assert schedule["schedule"]["interval"] == 600


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_a_taken_port_is_refused_and_nothing_is_left(finished: Project, served: Served) -> None:
    port = served.prefect.rpartition(":")[2]
    done = finished.run(*TRACKWAY, "up", f"--prefect-port={port}", check=False)
    assert done.returncode == 1
    assert f"error: port {port} for prefect cannot be used (Address already in use); choose another" in done.stdout
    assert "--prefect-port" in done.stdout
    assert finished.processes("supervisord") == []


def test_a_copy_does_not_take_the_original_s_servers_for_its_own(served: Served, tmp_path: Any) -> None:
    shutil.copytree(served.folder, tmp_path / "copy", symlinks=True)
    copy = Project(tmp_path / "copy")
    assert "nothing is running" in copy.run(*TRACKWAY, "status", check=False).stdout
    copy.run(*TRACKWAY, "down")
    assert answers(served)
    assert "running" in served.run(*TRACKWAY, "status").stdout


@pytest.mark.parametrize(
    ("command", "line", "message"),
    [
        ("check", "cron: often", "flow.schedules[0].cron is often; "),
        ("up", "cron: often", "flow.schedules[0].cron is often; "),
        ("check", "interval: 0", "flow.schedules.0.interval is 0; it must be >= 1"),
        ("check", "cron: '* * * * *', timezone: Mars/Olympus", "flow.schedules[0].timezone is Mars/Olympus; "),
        ("up", "interval: 60, cron: '* * * * *'", "flow.schedules.0: it must have either cron or interval"),
        (
            "check",
            "interval: 60, parameters: {target: [line]}",
            "flow.schedules.0: parameters.target is not a parameter of pipeline",
        ),
    ],
)
def test_a_wrong_schedule_is_refused(project: Project, command: str, line: str, message: str) -> None:
    project.edit("params.yaml", 'cron: "0 6 * * *", timezone: UTC', line)
    done = project.run(*TRACKWAY, command, check=False)
    assert done.returncode == 1
    assert f"error: {message}" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (project.folder / ".servers").exists()
