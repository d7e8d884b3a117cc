"""What `trackway export` writes as a folder is started and asked: a Hugging Face Space, and a container's command."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import requests
from huggingface_hub import SpaceCard

from learn.portable import input_as_photo
from tests.support.model_server import answering
from tests.support.project import ROOT, TRACKWAY, Project, free_port
from tests.support.space import asked, started

TEST_PART = "data/transformed/digits/evaluation/test-inputs.npy"
LINE = "data/transformed/line/training/test-inputs.npy"
BY_EVALUATE = "metrics/digits/digits-cnn.predictions.npz"


def export(project: Project, model: str, kind: str, out: Path, *, check: bool = True) -> str:
    """What `trackway export` says."""
    return project.run(*TRACKWAY, "export", model, "--format", kind, "--out", str(out), check=check).stdout


def test_a_space_says_of_a_photo_what_evaluate_predicted(by_flow: Project, tmp_path: Path) -> None:
    space = tmp_path / "space"
    shown = export(by_flow, "digits@champion", "space", Path(os.path.relpath(space, by_flow.folder)))
    assert "the app predicts what version 1 of digits predicts for the 4 examples" in shown
    card = SpaceCard.load(space / "README.md")
    assert (card.data.sdk, card.data.app_file, card.data.title) == ("gradio", "app.py", "digits")
    assert "## What decided" in card.text
    pinned = dict(re.findall(r"^(\w+)==(.+)$", (space / "requirements.txt").read_text(), re.MULTILINE))
    installed = (ROOT / "tests/support/gradio.txt").read_text()
    assert all(f"\n{name}=={pinned.pop(name)}\n" in installed for name in ("gradio", "pillow"))
    assert f"\ngradio=={card.data.sdk_version}\n" in installed
    assert pinned == {name: version(name).partition("+")[0] for name in ("torch", "numpy")}

    with np.load(by_flow.folder / BY_EVALUATE) as arrays:
        predicted, confidence = arrays["test/predictions"], arrays["test/confidence"]
    with started(space) as address:
        assert requests.get(f"{address}/config", timeout=60).json()["title"] == "digits, version 1"
        for index, digit in enumerate(np.load(by_flow.folder / TEST_PART)[:3]):
            input_as_photo(digit, 16).save(tmp_path / "digit.png")
            label, seconds = asked(address, tmp_path / "digit.png")
            assert label["label"] == str(predicted[index])
            assert label["confidences"][0]["confidence"] == pytest.approx(confidence[index], abs=1e-3)
            assert 0 < seconds < 10
        no_photo = asked(address, space / "requirements.txt")["error"]
        assert no_photo.startswith("the file cannot be read as a photo: it is no picture of these formats: JPEG, ")
        assert asked(address, None)["error"] == "there is nothing to predict yet"


def test_a_space_for_numbers_replaces_an_older_one_and_nothing_else(by_flow: Project, tmp_path: Path) -> None:
    space = tmp_path / "space"
    for name in ("README.md", "app.py", "examples", "learn", "model.pt2", "requirements.txt", "__pycache__"):
        (space / name).mkdir(parents=True)
    assert "the app predicts what version 1 of line predicts" in export(by_flow, "line@champion", "space", space)
    assert [each.name for each in tmp_path.iterdir()] == ["space"]
    assert not (space / "__pycache__").exists()
    assert float((space / "examples/01.txt").read_text()) == np.load(by_flow.folder / LINE)[0, 0]
    (space / "mine.txt").touch()
    shown = export(by_flow, "line@champion", "space", space, check=False)
    assert "a folder that --format space did not write: it has README.md, app.py, examples; next: name a new" in shown
    assert (space / "mine.txt").exists()


def test_a_container_s_command_serves_the_model(by_flow: Project, tmp_path: Path) -> None:
    """Without Docker: the commands of the Dockerfile are run, with a free port, in the folder that is its context."""
    image = Project(tmp_path / "image")
    export(by_flow, "digits/1", "docker", image.folder)
    assert not list(image.folder.rglob("__pycache__"))
    steps = instructions(image.read("Dockerfile"))
    assert steps["FROM"] == [f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"]
    assert steps["USER"] == ["1000"]
    assert all((image.folder / step.split()[-2]).exists() for step in steps["COPY"])
    assert str(by_flow.folder) not in image.read("model/MLmodel"), "no path of this machine"
    port = free_port()
    health, command = (
        [word.replace("8080", str(port)).replace("0.0.0.0", "127.0.0.1") for word in json.loads(text)]
        for text in (steps["HEALTHCHECK"][0].partition("CMD ")[2], steps["CMD"][0])
    )
    assert image.run(*health, check=False).returncode != 0
    with answering(image, port, *command) as (process, address):
        image.run(*health)
        stored = np.load(by_flow.folder / TEST_PART)[:3]
        answer = requests.post(f"{address}/invocations", json={"inputs": stored.tolist()}, timeout=60)
        with np.load(by_flow.folder / BY_EVALUATE) as arrays:
            expected = [str(each) for each in arrays["test/predictions"][:3]]
        assert [row["class"] for row in answer.json()["predictions"]] == expected
        process.send_signal(signal.Signals[steps["STOPSIGNAL"][0]])
        process.communicate(timeout=20)


def instructions(dockerfile: str) -> dict[str, list[str]]:
    """Instruction → what follows it, each time it is there."""
    found: dict[str, list[str]] = {}
    for line in dockerfile.splitlines():
        word, _, rest = line.partition(" ")
        if word and word != "#":
            found.setdefault(word, []).append(rest)
    return found
