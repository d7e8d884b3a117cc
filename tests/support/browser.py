"""A real browser for pages, if the machine has one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

PATIENCE = 60_000  # milliseconds; playwright's own, 5 seconds, are too few where the processor is busy


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium; the test is skipped where there is none. What is expected on a page may take PATIENCE."""
    expect.set_options(timeout=PATIENCE)
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program:
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()
