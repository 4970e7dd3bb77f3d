"""The built site: no warning, no dead link, nothing from another host, no page that is too wide."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src",
         "video": "src", "audio": "src", "embed": "src",
         "object": "data", "use": "href", "image": "href"}  # fmt: skip
"""Tags that make a browser load something, and the attribute that names it."""
RELS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload"}
"""Kinds of links that a browser follows by itself."""

pytestmark = pytest.mark.slow


class Read(HTMLParser):
    """What a page loads, what it links to, and its anchors."""

    def __init__(self, text: str):
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag in LOADS:
            self.loaded.append(values.get(LOADS[tag], ""))
        if tag == "link" and RELS & {*values.get("rel", "").split()}:
            self.loaded.append(values["href"])
        if tag == "a" and "href" in values:
            self.linked.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def read(site: Path) -> dict[Path, Read]:
    """Every page of the site."""
    return {path: Read(path.read_text()) for path in sorted(site.rglob("*.html"))}


def test_all_kinds_of_pages_are_there(site: Path, read) -> None:
    there = {path.relative_to(site).as_posix() for path in read}
    kinds = ("tutorials", "how-to", "reference", "explanation")
    assert {f"{kind}/index.html" for kind in kinds} <= there
    assert {"reference/metrics.html", "reference/config/stage.html"} <= there
    assert len(there) > 40


def test_every_link_leads_somewhere(read) -> None:
    dead = []
    for page, found in read.items():
        for link in found.linked:
            parts = urlsplit(link)
            if parts.scheme or page.name == "404.html":
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            has_anchor = target not in read or not parts.fragment or (
                unquote(parts.fragment) in read[target].anchors
            )  # fmt: skip
            if not target.exists() or not has_anchor:
                dead.append((page.name, link))
    assert dead == []


def test_links_of_pages_beside_the_site_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text()):
            if not urlsplit(link).scheme and not link.startswith("#"):
                assert (ROOT / link.split("#")[0]).exists(), f"{name}: {link}"


def test_nothing_that_a_page_names_is_loaded_from_another_host(site: Path, read) -> None:
    for page, found in read.items():
        for address in found.loaded:
            assert not re.match(r"\w*:?//", address), f"{page}: {address}"
    for sheet in site.rglob("*.css"):
        for address in re.findall(r"(?:url\(|@import )[\"']?([^\"')\s]+)", sheet.read_text()):
            assert address.startswith("data:") or "//" not in address, f"{sheet}: {address}"


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """The address of the site on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_asks_no_other_host_and_no_page_is_too_wide(
    served: str, site: Path, read, browser_page, width: int
) -> None:
    asked: set[str] = set()
    browser_page.on("request", lambda request: asked.add(request.url))
    browser_page.set_viewport_size({"width": width, "height": 800})
    wide = []
    for page in read:
        if page.name != "404.html":
            browser_page.goto(served + page.relative_to(site).as_posix())
            scrolls = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            if browser_page.evaluate(scrolls):
                wide.append(page.name)
    assert wide == []
    assert [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []


def test_search_finds_a_field(served: str, browser_page, expect) -> None:
    browser_page.goto(served + "index.html")
    browser_page.get_by_role("textbox", name="Search").fill("stage.beta")
    found = browser_page.locator(".md-search-result__link").first
    expect(found).to_have_attribute("href", re.compile("reference/config/stage.html"))
