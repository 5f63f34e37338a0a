"""A browser for the tests of web pages."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

OPTIONS = [
    *("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
    "--disable-background-networking",
]
"""WebGL without a GPU, and no requests of its own."""


def find_chromium() -> str | None:
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


@contextmanager
def launched() -> Iterator[Any]:
    """A running Chromium; skips the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium is found: install one, or run 'playwright install chromium'")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield chromium
        chromium.close()


@contextmanager
def opened(browser: Any, file: Path, **options: Any) -> Iterator[Any]:
    """A page that shows a file; at the end no error may have been logged and nothing else requested.

    Args:
        options: as Playwright's `new_page` has them.
    """
    page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append("dialog"), dialog.dismiss()))
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(file.as_uri())
    yield page
    assert problems == []
    assert [url for url in requested if not url.startswith("data:")] == [file.as_uri()]
    page.close()


def wait_for(page: Any, condition: str, seconds: float = 30.0) -> None:
    """Wait until an expression of JavaScript holds.

    Playwright's `wait_for_function` evaluates strings in the page, which a report's security policy forbids unless the
    expression holds at once.
    """
    limit = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < limit, f"it did not happen in time: {condition}"
        page.wait_for_timeout(20)


def middle(page: Any, selector: str) -> tuple[float, float]:
    """Where the middle of an element is, after scrolling to it."""
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
