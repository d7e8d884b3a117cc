"""Both pages as a person uses them: a real browser on the real servers.

SCREENSHOTS=docs python -m pytest tests/integration/flows/test_pages.py        # makes the README's pictures anew
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tasks.tracking.tags import STAGE
from tests.support.browser import PATIENCE, browser
from tests.support.project import Project, Served, wait_until

# asyncio's own, when playwright's event loop ends
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

SECONDS = 1000  # playwright counts milliseconds


@pytest.fixture(scope="module")
def page(served: Served) -> Iterator[Page]:
    with browser() as opened:
        page = opened.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(PATIENCE)
        yield page


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.wait_for_timeout(2 * SECONDS)
        file = Path(folder) / f"{name}.png"
        page.screenshot(path=file)
        Image.open(file).quantize(64).save(file, optimize=True)


def test_a_run_is_started_by_clicking_and_shows_its_tasks_and_results(page: Page, served: Served) -> None:
    page.goto(f"{served.prefect}/deployments")
    page.get_by_role("link", name="retrain").first.wait_for()
    page.get_by_role("link", name="pipeline").first.click()
    expect(page.get_by_text("0 6 * * *").first).to_be_visible()
    picture(page, "deployment")
    before = {run["id"] for run in served.ask("flow_runs/filter", {})}
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Quick run").click()
    (run,) = wait_until(lambda: [r for r in served.ask("flow_runs/filter", {}) if r["id"] not in before], 10)
    served.wait_for(run["id"])
    page.goto(f"{served.prefect}/runs/flow-run/{run['id']}")
    expect(page.get_by_text("pipeline: everything").first).to_be_visible()
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible()
    page.get_by_text("Task Runs", exact=True).first.click()
    expect(page.get_by_text("register digits").first).to_be_visible()
    expect(page.get_by_text("Cached").first).to_be_visible()
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_role("link", name="results").first.click()
    link = page.get_by_role("link", name="circles-relu").first
    expect(link).to_be_visible()
    with page.expect_popup() if link.get_attribute("target") else page.expect_navigation() as opened:
        link.click()
    mlflow_page = opened.value if isinstance(opened.value, Page) else page
    expect(mlflow_page.get_by_text("circles-relu").first).to_be_visible()
    assert mlflow_page.url.startswith(served.mlflow)


def test_a_training_shows_the_order_of_its_tasks(page: Page, served: Served) -> None:
    run = served.start_run("retrain", dataset="digits")
    served.wait_for(run)
    page.goto(f"{served.prefect}/runs/flow-run/{run}")
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible()
    picture(page, "run")


def test_the_saved_view_is_sorted_by_what_decides(page: Page, served: Served) -> None:
    page.goto(f"{runs_page(served, 'digits')}?viewStateShareKey=trackway")
    expect(page.get_by_text("accuracy on the validation split decides").first).to_be_visible()
    expect(page.get_by_text("Sort: validation/accuracy").first).to_be_visible()
    header = page.locator(".ag-header-cell")
    header.filter(has_text="validation/accuracy").wait_for()
    places = {cell.get_attribute("col-id"): box["x"] for cell in header.all() if (box := cell.bounding_box())}
    metrics = {column: x for column, x in places.items() if column and column.startswith("metrics")}
    assert min(metrics, key=lambda column: metrics[column]) == "metrics.`validation/accuracy`", "what decides"
    names = page.locator(".ag-row").filter(has_text="digits-").all_inner_texts()
    assert "digits-cnn" in names[0]


def test_two_runs_are_compared_and_both_curves_are_seen(page: Page, served: Served) -> None:
    page.goto(f"{served.mlflow}/#/experiments")
    page.locator('a[href^="#/experiments/"]', has_text="digits").first.click()
    page.get_by_role("link", name="digits-cnn").first.wait_for()  # the page opens on the runs, not on "GenAI"
    for experiment in ("digits-cnn", "digits-mlp"):
        page.get_by_role("row").filter(has_text=experiment).get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    page.get_by_role("link", name="train/loss", exact=True).click()
    for experiment in ("digits-cnn", "digits-mlp"):
        expect(page.get_by_text(f"{experiment} (train/loss)")).to_be_visible()
    assert page.locator(".js-plotly-plot .scatterlayer .js-line").count() >= 2
    picture(page, "curves")


def test_runs_are_sorted_by_validation_accuracy_and_grouped_by_experiment(page: Page, served: Served) -> None:
    page.goto(runs_page(served, "digits"))
    page.get_by_role("link", name="digits-cnn").first.wait_for()
    page.get_by_role("button", name="Sort").click()
    page.get_by_placeholder("Search").last.fill("validation/accuracy")
    page.get_by_text("validation/accuracy", exact=True).last.click()
    expect(page.get_by_role("button", name="Sort: validation/accuracy")).to_be_visible()
    page.get_by_role("button", name="Group by").click()
    page.get_by_text(STAGE, exact=True).last.click()
    groups = page.locator(".ag-row").filter(has_text="Group: train@digits-")
    expect(groups).to_have_count(2)
    expect(groups.first).to_contain_text("train@digits-cnn")


def test_two_experiments_of_several_seeds_are_compared_and_both_curves_are_seen(
    page: Page, served: Served, finished: Project
) -> None:
    finished.edit("params.yaml", "sqlite:///mlruns/mlflow.db", served.mlflow)
    text = finished.read("params.yaml")
    start = text.index("  blobs-linear:")
    seeds = text[start : text.index("\n\n", start)].replace("seed: 42", "seeds: [42, 43]")
    names = ("blobs-one", "blobs-two")
    added = "\n".join(seeds.replace("blobs-linear", name) for name in names)
    finished.edit("params.yaml", "  blobs-linear:", f"{added}\n  blobs-linear:")
    for name in names:
        finished.stage(f"train@{name}")
    page.goto(runs_page(served, "blobs"))
    for name in names:
        page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True)).get_by_role(
            "checkbox"
        ).first.check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    page.get_by_role("link", name="train/loss", exact=True).click()
    for name in names:
        expect(page.get_by_text(f"{name} (train/loss)")).to_be_visible()


def runs_page(served: Served, dataset: str) -> str:
    experiment = mlflow.MlflowClient(served.mlflow).get_experiment_by_name(dataset)
    assert experiment
    return f"{served.mlflow}/#/experiments/{experiment.experiment_id}/runs"
