"""One HTML page that needs nothing beside it: style, script and pictures are inside.

A page consists of sections, and a section of blocks of HTML. The functions here make blocks with
``blocks.html``, which escapes every text. A click on the head of a column sorts its table.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from omni_rlvr.text.templates import templates


def write_page(path: Path, title: str, intro: str, sections: Mapping[str, list[Markup]]) -> None:
    """Write a page of sections, title -> blocks; sections without blocks are left out."""
    kept = {name: blocks for name, blocks in sections.items() if blocks}
    page = templates(Path(__file__).parent).get_template("page.html")
    path.write_text(page.render(title=title, intro=intro, sections=kept), encoding="utf-8")


def note(text: str) -> Markup:
    """Make small print."""
    return Markup(_blocks().note(text))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Make a table that can be sorted; columns of words are aligned on the left."""
    columns = zip(*rows, strict=True)
    words = [any(cell[:1].isalpha() for cell in column) for column in columns]
    return Markup(_blocks().table(header, rows, words or [False] * len(header)))


def picture(path: Path, caption: str) -> Markup:
    """Put a PNG into the page, with its caption."""
    return Markup(_blocks().picture(base64.b64encode(path.read_bytes()).decode(), caption))


@cache
def _blocks() -> Any:
    """Return the macros of ``blocks.html``."""
    return templates(Path(__file__).parent).get_template("blocks.html").module
