"""`trackway compare` on a finished project: the page in a real browser, Markdown, the terminal, and MLflow's artifact.

SCREENSHOTS=/tmp python -m pytest tests/integration/flows/test_compare.py        # pictures of the page to look at
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from flows.reports.comparison.gather import gather
from flows.reports.comparison.page import page as page_of
from flows.reports.results import results
from tests.support.browser import browser
from tests.support.outputs import experiment, params_of, predicted, write_outputs
from tests.support.project import TRACKWAY, Project

# asyncio's own, when playwright's event loop ends
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

WIDTHS = (390, 1440)
HOSTILE = "</script><script>hacked = 1</script><img src=x onerror='hacked = 1'>"


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def report(by_flow: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    shown = by_flow.run(*TRACKWAY, "compare", "digits", "--out", str(file)).stdout
    assert shown.endswith(f"written: {file}\n")
    return file


@pytest.fixture
def page(opened: Browser, report: Path) -> Iterator[Page]:
    """The page, from which no request may leave and on which no error may be."""
    page = opened.new_page(viewport={"width": 1440, "height": 900})
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]
    assert not errors


def order(page: Page) -> list[str]:
    return page.locator("table.sortable").first.locator("tbody th .name").all_inner_texts()


def head(page: Page, title: str) -> Locator:
    return page.locator("table.sortable").first.locator("th").filter(has=page.get_by_role("button", name=title))


def test_the_page_is_sorted_by_mouse_and_keyboard(page: Page) -> None:
    assert order(page) == ["digits-cnn", "digits-mlp"]
    expect(head(page, "validation accuracy")).to_have_attribute("aria-sort", "descending")
    page.get_by_role("button", name="validation accuracy").first.click()
    expect(head(page, "validation accuracy")).to_have_attribute("aria-sort", "ascending")
    assert order(page) == ["digits-mlp", "digits-cnn"]
    page.get_by_role("button", name="parameters").first.focus()
    page.keyboard.press("Enter")
    expect(head(page, "parameters")).to_have_attribute("aria-sort", "ascending")
    assert order(page) == ["digits-cnn", "digits-mlp"]
    page.keyboard.press("Space")
    assert order(page) == ["digits-mlp", "digits-cnn"]
    assert page.locator("th[aria-sort]").count() == 1


def test_its_curves_have_a_logarithmic_scale_and_values(page: Page) -> None:
    chart = page.locator("figure.both").first
    line = chart.locator("path.line").first
    before = line.get_attribute("d")
    scale = page.get_by_role("button", name="Logarithmic loss")
    scale.click()
    expect(scale).to_have_attribute("aria-pressed", "true")
    assert line.get_attribute("d") != before
    expect(chart.locator(".logarithmic")).to_be_visible()
    expect(chart.locator(".linear")).to_be_hidden()
    scale.press("Enter")
    assert line.get_attribute("d") == before

    scale.focus()
    page.keyboard.press("Tab")
    expect(chart.locator(".tip b")).to_have_text("epoch 30")
    page.keyboard.press("ArrowLeft")
    expect(chart.locator(".tip b")).to_have_text("epoch 29")
    expect(chart.locator(".tip")).to_contain_text("digits-mlp")
    page.keyboard.press("Tab")
    expect(chart.locator(".tip")).to_be_hidden()
    chart.locator("svg").hover(position={"x": 200, "y": 100})
    expect(chart.locator(".tip")).to_contain_text("digits-cnn")
    page.mouse.move(0, 0)
    expect(chart.locator(".tip")).to_be_hidden()

    page.get_by_role("button", name="digits-mlp").click()
    expect(chart.locator("g[data-series='1']")).to_be_hidden()


def test_without_javascript_it_has_neither_buttons_nor_words_of_them(opened: Browser, report: Path) -> None:
    page = opened.new_context(java_script_enabled=False).new_page()
    page.goto(report.as_uri())
    assert page.locator("button").count() == 0
    assert page.locator("svg[tabindex]").count() == 0
    shown = page.locator("main").inner_text()
    assert not re.search("button|pointer|arrow|Logarithmic", shown)
    assert "digits-cnn" in page.locator(".legend").inner_text(), "the legend stays"
    page.close()


def test_its_most_confident_mistakes_come_first(page: Page) -> None:
    mistakes = page.locator(".mistakes").first
    shares = [float(text) for text in re.findall(r", ([\d.]+)%", mistakes.inner_text())]
    assert shares
    assert shares == sorted(shares, reverse=True)
    assert 10 <= min(shares) <= max(shares) <= 100
    assert mistakes.locator("img").count() == len(shares)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_a_desktop(page: Page, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 31)")
    assert page.locator("img").count() > 0
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth === 8)")
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"compare-{width}-{scheme}.png", full_page=True)


def test_a_hostile_name_is_only_text(opened: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in what the script reads, and in what it shows."""
    monkeypatch.chdir(tmp_path)
    splits = {"validation": predicted("digits", 50, 2), "test": predicted("digits", 50, 5)}
    write_outputs("a", "digits", splits, [2.0, 1.0])
    params = params_of({"a": experiment("digits")})
    report = gather(params, "digits", ["a"], results(params)[0])
    (entry,) = report.entries
    hostile = replace(report, dataset=HOSTILE, classes=(HOSTILE,) * 10, entries=(replace(entry, name=HOSTILE),))
    (tmp_path / "page.html").write_bytes(page_of([hostile]))
    page = opened.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.goto((tmp_path / "page.html").as_uri())
    page.locator(".charts svg").first.hover()
    expect(page.locator(".tip").first).to_contain_text(HOSTILE)
    page.get_by_role("button", name="validation accuracy").first.click()
    assert order(page) == [HOSTILE]
    assert page.evaluate("window.hacked") is None
    assert not errors
    page.close()


def test_it_is_compared_in_the_terminal_and_as_markdown(by_flow: Project, tmp_path: Path) -> None:
    shown = by_flow.run(*TRACKWAY, "compare").stdout
    assert re.findall(r"^(line|circles|blobs|digits) *$", shown, re.MULTILINE) == ["line", "circles", "blobs", "digits"]
    assert re.search(r"Champion: digits-cnn is champion \(version 1, validation accuracy", shown)
    by_flow.run(*TRACKWAY, "compare", "digits-mlp", "digits-cnn", "--out", str(tmp_path / "report.md"))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# digits\n")
    assert "| **digits-cnn** (best, champion) |" in text
    wrong = by_flow.run(*TRACKWAY, "compare", "digit", "--out", "report.html", check=False)
    assert wrong.returncode == 1
    assert "error: digit is neither a dataset nor an experiment" in wrong.stdout
    assert "did you mean digits?" in wrong.stdout


def test_the_flow_left_the_page_on_the_champion_s_run(by_flow: Project, report: Path) -> None:
    client = mlflow.MlflowClient(by_flow.tracking_uri)
    version = client.get_model_version_by_alias("digits", "champion")
    kept = Path(client.download_artifacts(version.run_id, "report.html", str(report.parent)))
    assert kept.read_bytes() == report.read_bytes()
    assert b"This is the first report; there is none to compare it with." in report.read_bytes()


def test_what_changed_since_the_page_in_mlflow_is_shown(finished: Project) -> None:
    """Also where this folder has made no page itself."""
    (finished.folder / ".dvc/tmp/reports.json").unlink()
    finished.edit("params.yaml", "lr: 0.003", "lr: 0.004")
    finished.commit("A faster *start*")
    finished.run(*TRACKWAY, "compare", "digits", "--out", "report.md")
    text = finished.read("report.md").replace("\\", "")
    assert re.search(r"^- Commits: [0-9a-f]+ A faster \*start\*$", text, re.MULTILINE)
    assert "\n- Parameters: digits-cnn: optimizer.lr 0.003 → 0.004\n" in text
    assert "1 commit, 1 change of parameters." in text


def test_a_flow_succeeds_even_if_its_page_cannot_be_kept(finished: Project) -> None:
    known = finished.folder / ".dvc/tmp/reports.json"
    known.unlink()
    known.mkdir()
    shown = finished.run(*TRACKWAY, "run", "line").stdout
    assert "MLflow has no new comparison: IsADirectoryError" in shown
    assert "stages: 0 run, " in shown
