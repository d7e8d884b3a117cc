"""`trackway up`: real servers, started once for all tests; what they run, show and survive."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import requests
from websockets import InvalidStatus, Origin
from websockets.sync.client import connect

from tasks.tracking.tags import FLOW_RUN_ID, NOTE
from tests.support.mlflow_server import MlflowServer
from tests.support.project import TRACKWAY, Project, Served, Webhook, free_port, wait_until

LONG = "    epochs: 30\n", "    epochs: 9000\n"

pytestmark = pytest.mark.usefixtures("own_prefect")


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


def test_other_pages_and_other_names_are_refused(served: Served, tmp_path: Path) -> None:
    """What a page in the user's browser can send: a request of its origin, or of a name that leads to 127.0.0.1."""
    found = served.ask("deployments/name/pipeline/pipeline")
    shell = {"prefect.deployments.steps.run_shell_script": {"script": f"touch {tmp_path}/ran"}}
    change = json.dumps({"pull_steps": [shell]})
    evil, rebound = (
        {"Origin": "http://evil.example"},
        {"Host": "evil.example:4200", "Origin": "http://evil.example:4200"},
    )
    path = f"{served.prefect}/api/deployments/{found['id']}"
    for headers in (evil, rebound, {"Origin": "null"}, {"Origin": "http://["}, {"Host": "evil.example"}):
        assert requests.patch(path, change, headers=headers, timeout=30).status_code == 403
        plain = headers | {"Content-Type": "text/plain"}
        assert requests.post(f"{path}/create_flow_run", "{}", headers=plain, timeout=30).status_code == 403
        for address in (f"{served.prefect}/api/admin/settings", f"{served.mlflow}/version"):
            assert requests.get(address, headers=headers, timeout=30).status_code == 403
    for origin in ("http://evil.example", "null"):
        with pytest.raises(InvalidStatus, match="403"):
            connect(f"{served.prefect.replace('http', 'ws')}/api/events/out", origin=Origin(origin)).close()
    after = served.ask("deployments/name/pipeline/pipeline")
    assert after["pull_steps"] == found["pull_steps"]
    assert after["updated"] == found["updated"]
    assert not (tmp_path / "ran").exists()

    own = {"Origin": served.prefect.replace("127.0.0.1", "localhost")}
    there = own["Origin"] + "/api/deployments/filter"
    assert requests.post(there, json={}, headers=own, timeout=30).status_code == 200
    assert stat.S_IMODE((served.folder / ".servers").stat().st_mode) == 0o700
    assert stat.S_IMODE((served.folder / ".prefect").stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in (served.folder / ".servers").iterdir()} == {0o600}


def test_a_password_protects_both_pages(finished: Project) -> None:
    """From other machines, too: without one they are not let in. No file and no argument has it."""
    ports = {name: free_port() for name in ("prefect", "mlflow")}
    up = (*TRACKWAY, "up", "--host=0.0.0.0", *(f"--{name}-port={port}" for name, port in ports.items()))
    refused = finished.run(*up, check=False)
    assert refused.returncode == 1
    assert "error: --host 0.0.0.0 lets other machines in" in refused.stdout
    assert "TRACKWAY_PASSWORD" in refused.stdout
    odd = finished.run(*up, check=False, TRACKWAY_PASSWORD="grün")
    assert odd.returncode == 1
    assert "error: TRACKWAY_PASSWORD has other characters than printable ASCII" in odd.stdout
    assert not (finished.folder / ".servers").exists()

    password = "correct-horse-%d-battery"
    prefect, mlflow_address = (f"http://127.0.0.1:{port}" for port in ports.values())
    try:
        finished.run(*up, TRACKWAY_PASSWORD=password)
        for address in (f"{prefect}/api/admin/version", f"{mlflow_address}/", f"{mlflow_address}/version"):
            assert requests.get(address, timeout=30).status_code == 401
            assert requests.get(address, auth=("trackway", "wrong"), timeout=30).status_code == 401
            assert requests.get(address, auth=("trackway", password), timeout=30).status_code == 200
        with pytest.raises(InvalidStatus, match="403"):
            connect(f"{prefect.replace('http', 'ws')}/api/events/in").close()
        page = {"Host": "machine.example:4200", "Origin": "http://machine.example:4200"}
        search = f"{mlflow_address}/api/2.0/mlflow/experiments/search"
        found = requests.post(search, json={"max_results": 1}, headers=page, auth=("trackway", password), timeout=30)
        assert found.status_code == 200

        # In another terminal, where it is not set: the folder's own commands take it from the supervisor.
        assert "does not answer" not in finished.run(*TRACKWAY, "status").stdout
        assert "2 stages: 0 run, 2 up to date" in finished.run(*TRACKWAY, "run", "split@line").stdout
        known = {"PREFECT_API_AUTH_STRING": f"trackway:{password}"}
        start = ("prefect", "deployment", "run", "pipeline/pipeline", "--param", 'targets=["split@line"]', "--watch")
        assert "Completed" in finished.run(*start, check=True, **known).stdout
        code = "import mlflow; print([e.name for e in mlflow.MlflowClient().search_experiments()])"
        client = {
            "MLFLOW_TRACKING_URI": mlflow_address,
            "MLFLOW_TRACKING_USERNAME": "trackway",
            "MLFLOW_TRACKING_PASSWORD": password,
        }
        assert "digits" in finished.python(code, check=True, **client).stdout

        arguments = [process.cmdline() for process in finished.processes("")]
        assert len(arguments) >= 4
        assert "correct-horse" not in str(arguments)
        for folder in (".servers", ".prefect"):
            for file in (finished.folder / folder).rglob("*"):
                assert not file.is_file() or b"correct-horse" not in file.read_bytes(), file
    finally:
        finished.run(*TRACKWAY, "down")
    assert finished.processes("") == []


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
    assert run["state"]["message"] == "31 stages: 0 run, 31 up to date"
    tasks = served.tasks(run["id"])
    assert len(tasks) == 31
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
    page = re.search(
        rf"In detail: .*\[circles\]\({link[1]}/#/experiments/{link[2]}/runs/{link[3]}/artifacts/(\S+)\)", table
    )
    assert page, table
    shown = requests.get(f"{served.mlflow}/get-artifact", {"run_id": link[3], "path": page[1]}, timeout=30).text
    assert "circles-relu has the best test accuracy" in shown


def test_a_run_started_through_the_api_trains_and_both_sides_link_to_each_other(served: Served) -> None:
    run = served.wait_for(served.start_run("retrain", dataset="digits"))
    assert (run["name"], run["state"]["name"]) == ("retrain: digits", "Completed")
    assert run["state"]["message"] == "9 stages: 5 run, 4 up to date"
    logs = served.logs(run["id"])
    for epoch in (1, 2, 30):
        assert f"train digits-mlp: epoch {epoch}/30, train/loss " in logs
    client = mlflow.MlflowClient(served.mlflow)
    experiment = client.get_experiment_by_name("digits")
    assert experiment
    newest = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"], max_results=2)
    page = f"{served.prefect}/runs/flow-run/{run['id']}"
    for tracked in newest:
        assert tracked.data.tags[FLOW_RUN_ID] == run["id"]
        assert page in tracked.data.tags[NOTE]


def test_prefect_s_command_starts_runs_and_the_second_waits_for_the_first(served: Served) -> None:
    command = ("prefect", "deployment", "run", "pipeline/pipeline", "--param", 'targets=["line"]')
    ids = [re.findall(r"UUID: (\S+)", served.run(*command).stdout)[0] for _ in range(2)]
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
    wait_until(lambda: "epoch 90/9000" in edited.logs(run), 60)
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
    (server,) = served.processes("flows.servers.guard:prefect")
    server.kill()
    wait_until(lambda: answers(served), 60)
    assert served.wait_for(run)["state"]["name"] == "Completed"
    assert served.lock == before


def answers(project: Served) -> bool:
    try:
        return bool(requests.get(f"{project.prefect}/api/health", timeout=2).ok)
    except requests.RequestException:
        return False


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


def test_a_killed_flow_ends_crashed_and_is_told(edited: Served, webhook: Webhook) -> None:
    """One that `trackway run` has started, and one of a deployment while params.yaml is broken.

    No log says the secrets of an address.
    """
    nobody = f"http://127.0.0.1:{free_port()}/my-secret?key=my-secret"
    edited.edit("params.yaml", "notify: []", f'notify: ["{nobody}", "{webhook.address}/T0/B1?token=abc&to=me"]')
    edited.edit("params.yaml", *LONG)
    with edited.start(*TRACKWAY, "run", "digits-mlp") as command:
        assert command.stdout
        assert any("5 stages, up to" in line for line in command.stdout)
        (run,) = edited.ask("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}})
        command.kill()
    assert edited.wait_for(run["id"])["state"]["message"] == "its process was killed"

    deployed = edited.start_run("pipeline", targets=["digits-mlp"])
    wait_until(lambda: "5 stages, up to" in edited.logs(deployed), 120)
    (edited.folder / "params.yaml").write_text("flow: [broken")
    (flow,) = [p for p in edited.processes("prefect.engine") if _environ(p)["PREFECT__FLOW_RUN_ID"] == deployed]
    flow.kill()
    assert edited.wait_for(deployed)["state"]["name"] == "Crashed"
    wait_until(lambda: len(webhook.told) == 2, 60)
    assert {message["title"] for message in webhook.told} == {"Trackway: pipeline: digits-mlp ended Crashed"}
    assert set(webhook.paths) == {"/hook/T0/B1?token=abc&to=me"}
    failed = "flow.notify[0] in params.yaml (http://127.0.0.1) could not be told: ConnectionError"
    wait_until(lambda: failed in edited.logs(deployed), 60)
    assert "my-secret" not in edited.logs(deployed) + edited.read(".servers/serve.log")


def test_what_crashes_is_started_again(served: Served) -> None:
    (server,) = served.processes("flows.servers.guard:mlflow")
    server.kill()
    wait_until(lambda: (new := served.processes("flows.servers.guard:mlflow")) and new[0].pid != server.pid, 30)
    wait_until(lambda: served.run(*TRACKWAY, "status", check=False).returncode == 0, 60)


def test_history_and_schedules_outlive_down_and_up(by_flow: Project, served: Served) -> None:
    run = served.start_run("retrain", dataset="digits")
    wait_until(lambda: "train digits-mlp: loading PyTorch" in served.logs(run), 120)
    before = len(served.ask("flow_runs/filter", {}))
    mark = json.loads(served.read(".servers/servers.json"))["mark"]
    assert "stopped" in served.run(*TRACKWAY, "down").stdout
    marked = [p for p in psutil.process_iter() if _environ(p).get("TRACKWAY_SERVERS") == mark]
    assert marked == []
    stages = [f"{kind}@{name}" for kind in ("train", "evaluate") for name in ("digits-mlp", "digits-cnn")]
    assert "up to date" in served.run("dvc", "status", *stages).stdout, "down in the middle of a retrain"
    assert "nothing was running" in served.run(*TRACKWAY, "down").stdout
    assert "nothing is running" in served.run(*TRACKWAY, "status", check=False).stdout
    served.up()
    assert len(served.ask("flow_runs/filter", {})) == before
    (schedule,) = served.ask("deployments/name/retrain/retrain")["schedules"]
    assert schedule["schedule"]["interval"] == 600


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_a_tracking_server_elsewhere_is_linked_to_and_none_is_started(
    project: Project, mlflow_server: MlflowServer
) -> None:
    """Its address holds a password, which no command, file or process of `up` shows."""
    secret = mlflow_server.address.replace("//", "//me:s3cr3t-w0rd@")
    project.edit("params.yaml", "tracking: sqlite:///mlruns/mlflow.db", f"tracking: {secret}")
    said = project.run(*TRACKWAY, "up", f"--prefect-port={free_port()}").stdout
    try:
        assert re.search(rf"{mlflow_server.address} +elsewhere", said), said
        running = project.processes("")
        assert not [process for process in running if "mlflow" in " ".join(process.cmdline())]
        shown = [said, project.run(*TRACKWAY, "status").stdout, *(" ".join(p.cmdline()) for p in running)]
        files = [file for file in (project.folder / ".servers").iterdir() if file.is_file()]
        assert "s3cr3t-w0rd" not in "".join([*shown, *(file.read_text() for file in files)])
    finally:
        project.run(*TRACKWAY, "down")
    assert mlflow_server.answers()


def test_the_store_s_address_is_in_no_argument_and_no_file_of_the_servers(served: Served) -> None:
    """It may hold a password; a database's would otherwise be shown by `ps`."""
    config = served.read(".servers/supervisord.conf")
    commands = "".join(word for process in served.processes("") for word in process.cmdline())
    assert "mlflow.db" not in config + commands


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
    ("command", "mistakes"),
    [
        (
            "up",
            {
                "cron: often": "flow.schedules[0].cron is often; ",
                "cron: '* * * * *', timezone: Mars/Olympus": "flow.schedules[1].timezone is Mars/Olympus; ",
            },
        ),
        (
            "check",
            {
                "interval: 0": "flow.schedules.0.interval is 0; it must be >= 1",
                "interval: 60, cron: '* * * * *'": "flow.schedules.1: it must have either cron or interval",
                "interval: 60, parameters: {target: [line]}": "flow.schedules.2: parameters.target is not a parameter "
                "of pipeline",
            },
        ),
    ],
    ids=["what-only-prefect-knows", "what-the-file-tells"],
)
def test_wrong_schedules_are_refused_all_at_once(project: Project, command: str, mistakes: dict[str, str]) -> None:
    lines = "".join(f"\n    - {{deployment: pipeline, {line}, paused: true}}" for line in mistakes)
    project.edit("params.yaml", "  schedules:", f"  schedules:{lines}")
    done = project.run(*TRACKWAY, command, check=False)
    assert done.returncode == 1
    for message in mistakes.values():
        assert f"error: {message}" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (project.folder / ".servers").exists()
