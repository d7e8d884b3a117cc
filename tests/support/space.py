"""A Hugging Face Space on this machine: `python app.py`, and Gradio's API."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.project import Project, free_port, wait_until

GRADIO = Path(sys.prefix) / "gradio"  # where `make setup` installs it


@contextmanager
def started(space: Path) -> Iterator[str]:
    """The app of a Space, at a port of this machine only; its address."""
    if not GRADIO.is_dir():
        pytest.skip("needs Gradio beside the other packages: make setup")
    address = f"http://127.0.0.1:{(port := free_port())}"
    environment = {"PYTHONPATH": str(GRADIO), "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    with Project(space).start("python", "app.py", **environment) as process:
        try:
            wait_until(lambda: _answers(address, process), 120)
            yield address
        finally:
            process.kill()


def _answers(address: str, process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, process.communicate()[0]
    try:
        return requests.get(address, timeout=5).ok
    except requests.RequestException:
        return False


def asked(address: str, *given: Any) -> Any:
    """What Gradio's API says to values of the fields, a path being a photo: both outputs, or a dict with the error."""
    api = f"{address}/gradio_api"
    data = [_sent(api, each) if isinstance(each, Path) else each for each in given]
    event = requests.post(f"{api}/call/predict", json={"data": data}, timeout=60).json()["event_id"]
    answer = requests.get(f"{api}/call/predict/{event}", timeout=60).text  # server-sent events
    return json.loads(answer.rpartition("data: ")[2])


def _sent(api: str, photo: Path) -> dict[str, Any]:
    (path,) = requests.post(f"{api}/upload", files={"files": photo.read_bytes()}, timeout=60).json()
    return {"path": path, "meta": {"_type": "gradio.FileData"}}
