"""What the README shows, done."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
import urllib.request

import pytest

from tests.conftest import ROOT, Project

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
    assert "moons-wide is champion (version 1, matthews " in log


def test_its_make_targets_and_trackway_commands_are_there(project: Project) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make (\w+)|`make (\w+)`", README, re.MULTILINE)):
        assert f"\n{''.join(target)}: " in makefile, target
    help_ = project.run("python", "-m", "flows.cli", "--help").stdout
    commands = set(re.findall(r"^trackway (\w+)", "\n".join(blocks("sh")), re.MULTILINE))
    assert commands == {"ls", "add", "run", "results", "check"}
    assert all(command in help_ for command in commands)


def test_its_tree_names_every_file_of_the_source() -> None:
    tree = next(block for block in blocks("text") if block.startswith("params.yaml"))
    for layer in ("learn", "tasks", "flows"):
        for path in (ROOT / layer).glob("*.py"):
            assert path.name == "__init__.py" or path.name in tree, path


def test_the_table_of_course_numbers_is_the_golden_one() -> None:
    golden = json.loads((ROOT / "tests/golden/numbers.json").read_text(encoding="utf-8"))
    for name, expected in (golden["state_dict"] | golden["history"]).items():
        (row,) = re.findall(rf"^\| \d \| {name} \|.*$", README, re.MULTILINE)
        assert row.count(", ".join(str(value) for value in expected.values())) == 2, row


@pytest.mark.parametrize("name", ["mlflow", "prefect"])
def test_its_servers_answer_on_loopback(project: Project, name: str) -> None:
    lines = [line.partition("#")[0].split() for block in blocks("sh") for line in block.splitlines()]
    (command,) = (words for words in lines if words[:1] == [name])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (project.folder / "mlruns").mkdir()
    server = project.start(*command, "--port", str(port))
    try:
        path = {"mlflow": "health", "prefect": "api/health"}[name]
        for _ in range(240):
            time.sleep(0.5)
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as answer:
                assert answer.status == 200
                return
            assert server.poll() is None, "the server stopped"
        pytest.fail("the server did not answer within two minutes")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
