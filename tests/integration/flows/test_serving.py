"""`trackway serve` as people and programs use it: a browser, MLflow's REST API, photos, and what is wrong."""

from __future__ import annotations

import io
import re
import shutil
import sys
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import mlflow
import numpy as np
import pytest
import requests
from PIL import Image
from playwright.sync_api import Page, expect

from tests.integration.tasks.test_tracking import run_of
from tests.support.browser import browser
from tests.support.model_server import answering, evaluated, serving
from tests.support.project import TRACKWAY, Project, free_port, wait_until

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",  # asyncio's own, when playwright's event loop ends
    "ignore::ResourceWarning",
    "ignore:.*Any type hint is inferred as AnyType",  # of mlflow.pyfunc itself, when it is imported
)

SECONDS = 1000  # playwright counts milliseconds
DIGITS = "data/transformed/digits/evaluation/test-inputs.npy"


@pytest.fixture(scope="module")
def digits(by_flow: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("serving") / "project"
    shutil.copytree(by_flow.folder, folder, symlinks=True)
    return Project(folder)


@pytest.fixture(scope="module")
def address(digits: Project) -> Iterator[str]:
    """Where `trackway serve digits@champion` answers."""
    with serving(digits, "digits@champion") as found:
        yield found


def test_a_drawn_digit_and_a_sample_show_their_classes(digits: Project, address: str) -> None:
    predicted = evaluated(digits, "digits-cnn")
    with browser() as opened:
        page = opened.new_page(viewport={"width": 390, "height": 844})  # a phone's
        page.set_default_timeout(60 * SECONDS)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        page.goto(address)
        expect(page.get_by_role("heading", name="digits@champion, version 1")).to_be_visible()
        box = page.get_by_role("img", name="A place to draw").bounding_box()
        assert box
        _draw(page, box, [(0.5, 0.1), (0.3, 0.3), (0.28, 0.6), (0.5, 0.9), (0.72, 0.6), (0.7, 0.3), (0.5, 0.1)])
        first = page.locator("#classes li").first
        expect(first).to_contain_text("0")
        expect(page.locator("#took")).to_contain_text("Version 1 answered in ")
        assert page.locator("#classes progress").count() == 5
        sample = page.get_by_role("button", name="Sample 2")
        sample.focus()
        page.keyboard.press("Enter")
        expect(first).to_contain_text(predicted[round((len(predicted) - 1) / 3)])
        expect(page.get_by_role("img", name="What was sent to the model")).to_be_visible()
        page.get_by_text("Model card").click()
        expect(page.get_by_role("heading", name="What decided")).to_be_visible()
        page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no photo"})
        expect(page.locator("#error")).to_contain_text("the file cannot be read as a photo: it is no picture")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut on a phone"
        assert [problem for problem in problems if "status of 400" not in problem] == []


def _draw(page: Page, box: Any, points: list[tuple[float, float]]) -> None:
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def as_png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def sent(address: str, photo: bytes, session: Any = requests) -> requests.Response:
    return session.post(f"{address}/predict", files={"photo": ("photo.png", photo)}, timeout=60)


def test_the_test_part_as_pictures_gives_what_evaluate_predicted(digits: Project, address: str) -> None:
    stored = np.load(digits.folder / DIGITS)
    with requests.Session() as session:
        pictures = (np.rint(digit[0] * (255 / 16)).astype(np.uint8) for digit in stored)
        found = [sent(address, as_png(each), session).json()["classes"][0]["class"] for each in pictures]
    assert found == evaluated(digits, "digits-cnn")


def test_it_answers_programs_as_mlflow_models_serve_does(digits: Project, address: str) -> None:
    stored = np.load(digits.folder / DIGITS)[:3]
    bodies = [
        ("application/json", f'{{"inputs": {stored.tolist()}}}'),
        ("application/json", f'{{"instances": {stored.tolist()}}}'),
        ("application/json", '{"inputs": [[1, 2]]}'),
        ("application/json", '{"inputs": [[[[NaN]]]]}'),
        ("application/json", '{"inputs": []}'),
        ("application/json", '{"inputs": [[[[256]]]]}'),
        ("application/json; charset=utf-8", f'{{"instances": {stored.tolist()}, "params": null}}'),
        ("application/json", "[1, 2]"),
        ("application/json", "{"),
        ("application/json", '{"other": 1}'),
        ("text/csv", "a,b\n1,2\n"),
        ("text/plain", "hello"),
    ]
    port = free_port()
    mlflow_serve = (sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/digits@champion")
    options = ("--env-manager", "local", "--port", str(port))
    with answering(digits, port, *mlflow_serve, *options, MLFLOW_TRACKING_URI=digits.tracking_uri) as (_, theirs):
        for kind, body in bodies:
            ours, expected = (
                requests.post(f"{one}/invocations", data=body, headers={"Content-Type": kind}, timeout=60)
                for one in (address, theirs)
            )
            assert (ours.status_code, ours.headers["content-type"]) == (
                expected.status_code,
                expected.headers["content-type"],
            ), body
            if ours.ok:
                assert ours.json().keys() == expected.json().keys()
                for row, other in zip(ours.json()["predictions"], expected.json()["predictions"], strict=True):
                    assert row["class"] == other["class"]
                    assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
            else:
                assert 400 <= ours.status_code < 500
                texts = (answer.text.partition("stack_trace")[0] for answer in (ours, expected))
                one, other = (sorted(re.findall(r"\w+", text)) for text in texts)  # a set's order is any
                assert one == other
        for path in ("ping", "version"):
            ours, expected = (requests.get(f"{one}/{path}", timeout=60) for one in (address, theirs))
            assert (ours.status_code, ours.text) == (expected.status_code, expected.text)
    assert requests.get(f"{address}/health", timeout=60).json()["version"] == "1"
    assert {"/predict", "/invocations"} <= requests.get(f"{address}/openapi.json", timeout=60).json()["paths"].keys()
    counted = requests.get(f"{address}/metrics", timeout=60).text
    assert 'trackway_requests_total{path="/invocations",status="200"} 3.0' in counted
    assert requests.get(address, timeout=60, headers={"Host": "example.org"}).status_code == 400


def bomb(side: int) -> bytes:
    """A PNG of a few hundred bytes whose header says that it has side × side pixels."""
    small = as_png(np.zeros((1, 1), np.uint8))
    at = small.index(b"IHDR")
    header = b"IHDR" + side.to_bytes(4) * 2 + small[at + 12 : at + 17]
    return small[:at] + header + zlib.crc32(header).to_bytes(4) + small[at + 21 :]


NOISE = np.random.default_rng(0).integers(256, size=(64, 64)).astype(np.uint8)


def test_what_is_no_photo_gets_a_reason(address: str) -> None:
    cases = {
        b"": "the file cannot be read as a photo: it is no picture of these formats",
        b"GIF89a": "the file cannot be read as a photo: ",
        bomb(50_000): "the file cannot be read as a photo: Image size (2500000000 pixels) exceeds limit of ",
        bomb(10_000): "the file cannot be read as a photo: it has 10,000×10,000 pixels by its header",
        as_png(NOISE)[:2000]: "the file cannot be read as a photo: ",
    }
    for photo, why in cases.items():
        answer = sent(address, photo)
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(why)
    no_form = requests.post(f"{address}/predict", data=b"hello", timeout=60)
    assert (no_form.status_code, no_form.json()["detail"][:29]) == (400, "there is no file in a form; s")
    assert requests.get(f"{address}/examples/99.png", timeout=60).status_code == 404
    assert sent(address, as_png(np.zeros((8, 8), np.uint8))).ok


def test_a_new_champion_is_taken_up_while_clients_ask_and_no_answer_is_torn(digits: Project, address: str) -> None:
    """Last: the other tests ask for version 1."""
    mlflow.set_tracking_uri(digits.tracking_uri)  # MLflow asks this store for the model of a new version
    client, run = mlflow.MlflowClient(), run_of(digits, "digits-mlp")
    (output,) = run.outputs.model_outputs
    second = client.create_model_version(
        "digits", f"models:/{output.model_id}", run.info.run_id, model_id=output.model_id
    )
    new = str(second.version)
    stored = np.load(digits.folder / DIGITS)[:1]
    expected = {
        version: mlflow.pyfunc.load_model(f"models:/digits/{version}").predict(stored)["probabilities"][0]
        for version in ("1", new)
    }
    answers: list[tuple[int, str, dict[str, float]]] = []
    ended = threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not ended.is_set():
                answer = session.post(f"{address}/invocations", json={"inputs": stored.tolist()}, timeout=60)
                row = answer.json()["predictions"][0]
                answers.append((answer.status_code, answer.headers["X-Model-Version"], row["probabilities"]))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for each in clients:
        each.start()
    wait_until(lambda: len(answers) > 20, 60)
    client.set_registered_model_alias("digits", "champion", new)
    wait_until(lambda: answers[-1][1] == new, 60)
    ended.set()
    for each in clients:
        each.join()
    assert {status for status, _, _ in answers} == {200}
    assert {version for _, version, _ in answers} == expected.keys()
    for _, version, probabilities in answers:
        assert probabilities == pytest.approx(expected[version], abs=1e-5)


def test_numbers_are_predicted_on_the_command_line(digits: Project) -> None:
    shown = digits.run(*TRACKWAY, "predict", "--model", "line@champion", "-0.5").stdout
    (line,) = [each for each in shown.splitlines() if each.startswith("row 1: ")]
    assert float(line.partition(": ")[2]) == pytest.approx(0.7 * -0.5 + 0.3, abs=0.1)


def test_numbers_and_a_version_are_served_too(digits: Project) -> None:
    with serving(digits, "line/1") as address, browser() as opened:
        page = opened.new_page()
        page.goto(address)
        page.get_by_label("A number:").fill("many")
        page.get_by_role("button", name="Predict", exact=True).click()
        expect(page.locator("#error")).to_have_text("Give one number, such as 0.5; of what is there, 0 can be read.")
        page.get_by_label("A number:").fill("0.5")
        page.keyboard.press("Enter")
        first = page.locator("#classes li").first
        expect(first).to_contain_text("0.6")  # 0.7 × 0.5 + 0.3
        refused = requests.post(f"{address}/predict", files={"photo": as_png(np.zeros((8, 8), np.uint8))}, timeout=60)
        assert (refused.status_code, refused.json()["detail"]) == (
            400,
            "line takes numbers, not photos; send such inputs to /invocations",
        )


def test_a_model_or_a_port_that_is_not_there_is_told(digits: Project, address: str) -> None:
    done = digits.run(*TRACKWAY, "serve", "digit@champion", "--port", str(free_port()), check=False)
    assert done.returncode == 1
    assert "error: digit@champion is no registered model; there is " in done.stdout
    port = address.rpartition(":")[2]
    done = digits.run(*TRACKWAY, "serve", "digits@champion", "--port", port, check=False)
    assert done.returncode == 1
    assert f"port {port}: Address already in use; choose another --port" in done.stdout
