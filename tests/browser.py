"""A headless browser for the tests that drive a page; each of them gets the marker ``browser``.

Playwright is imported where the browser starts, so that ``-m "not browser"`` needs neither it nor
Chromium.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("quic", "gpu", "background-networking", "component-update", "sync")
"""What a quiet browser does without."""


@pytest.hookimpl(tryfirst=True)  # before -m deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and "browser" in item.fixturenames:
            item.add_marker("browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; closed with the module, since its event loop would hinder others."""
    from playwright.sync_api import sync_playwright

    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    flags = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in FLAGS)]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, headless=True, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def browser_page(browser: Browser) -> Iterator[Page]:
    """An empty page; a console error or an uncaught exception on it fails the test at its end."""
    context = browser.new_context()
    context.set_default_timeout(20_000)
    page, errors = context.new_page(), []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text[:2000])

    page.on("console", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert not errors


@pytest.fixture
def expect(browser: Browser) -> Callable:
    """Playwright's ``expect``: assertions that wait until the page is as they say."""
    from playwright.sync_api import expect

    expect.set_options(timeout=20_000)
    return expect
