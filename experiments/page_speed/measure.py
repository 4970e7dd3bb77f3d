"""Measure how long a page of clips takes to open in headless Chromium, up to the visible table.

Usage: python measure.py PAGE.html
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

NUM_TIMES = 5


def main() -> None:
    path = Path(sys.argv[1]).resolve()
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        where = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=where, args=flags)
        opened = [measure(browser, path) for _ in range(NUM_TIMES)]
        browser.close()
    first, card = (statistics.median(times) for times in zip(*opened, strict=True))
    size = path.stat().st_size / 1e6
    print(f"{size:.1f} MB: table after {first:.2f} s, a card {card:.2f} s after its click")
    print("tables:", ", ".join(f"{table:.2f}" for table, _ in opened))


def measure(browser: Browser, path: Path) -> tuple[float, float]:
    """Seconds to the table in a fresh context, and from a click to an open card."""
    context = browser.new_context()
    page, errors = context.new_page(), []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    started = time.perf_counter()
    page.goto(path.as_uri())
    page.locator("#table").wait_for(state="visible")
    table = time.perf_counter() - started
    started = time.perf_counter()
    page.locator(".open").nth(1).click()
    page.locator(".card video, .card audio").first.wait_for(state="visible")
    card = time.perf_counter() - started
    if errors:
        sys.exit(f"the console says: {errors}")
    context.close()
    return table, card


if __name__ == "__main__":
    main()
