"""One HTML page that needs nothing beside it: style, script and pictures are inside.

A page is a list of sections, and a section a list of blocks of HTML from the functions here, which
escape every text they are given. Tables are sorted by a click on a column's head.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #ffffff; --line: #d7dae0;
  --soft: #f3f4f7; --link: #0b57d0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e7ea; --paper: #16181c; --line: #3a3e46; --soft: #20242a; --link: #8ab4f8; } }
body { margin: 0 auto; padding: 1.5rem; max-width: 75rem;
  color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
a { color: var(--link); } nav a { margin-right: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child, .words { text-align: left; }
td.words { max-width: 24rem; min-width: 6rem; white-space: normal; overflow-wrap: break-word; }
th { position: sticky; top: 0; background: var(--soft); }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\25b2"; }
th[aria-sort=descending] button::after { content: " \\25bc"; }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; vertical-align: top; max-width: 100%; }
figure img { max-width: 100%; background: #fff; border-radius: 6px; padding: 6px;
  box-sizing: border-box; }
figcaption, .note { font-size: .85rem; opacity: .8; max-width: 60rem; }
"""
SCRIPT = """
document.querySelectorAll("th button").forEach(button => button.addEventListener("click", () => {
  const head = button.parentElement, row = head.parentElement;
  const body = row.closest("table").tBodies[0];
  const i = [...row.children].indexOf(head), up = head.getAttribute("aria-sort") !== "ascending";
  [...row.children].forEach(cell => cell.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = line => line.children[i].textContent, number = text => parseFloat(text);
  [...body.rows].sort((a, b) => {
    const x = key(a), y = key(b), both = !isNaN(number(x)) && !isNaN(number(y));
    return (both ? number(x) - number(y) : x.localeCompare(y)) * (up ? 1 : -1);
  }).forEach(line => body.append(line));
}));
"""


@dataclass(frozen=True)
class Section:
    """A part of a page."""

    title: str
    blocks: Sequence[str]
    """HTML, from the functions of this file."""


def write_page(path: Path, title: str, intro: str, sections: Sequence[Section]) -> None:
    """Writes a page; sections without blocks are left out."""
    kept = [section for section in sections if section.blocks]
    links = "".join(f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(kept))
    bodies = "\n".join(
        f'<section id="s{i}"><h2>{escape(section.title)}</h2>\n' + "\n".join(section.blocks)
        + "</section>"
        for i, section in enumerate(kept)
    )  # fmt: skip
    path.write_text(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{paragraph(intro)}\n<nav>{links}</nav>\n{bodies}\n"
        f"<script>{SCRIPT}</script>\n</body></html>\n",
        encoding="utf-8",
    )


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def note(text: str) -> str:
    """Small print."""
    return f'<p class="note">{escape(text)}</p>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that can be sorted; columns of words stand on the left."""
    columns = zip(*rows, strict=True)
    words = [any(cell[:1].isalpha() for cell in column) for column in columns]
    sides = [' class="words"' if column else "" for column in words] or [""] * len(header)
    heads = "".join(
        f'<th scope="col"{side}><button type="button">{escape(cell)}</button></th>'
        for cell, side in zip(header, sides, strict=True)
    )
    lines = "\n".join(
        "<tr>"
        + "".join(f"<td{side}>{escape(cell)}</td>" for cell, side in zip(row, sides, strict=True))
        + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{heads}</tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>\n{lines}\n</tbody></table></div>'


def picture(path: Path, caption: str) -> str:
    """A PNG, put into the page, with its caption."""
    data = base64.b64encode(path.read_bytes()).decode()
    text = escape(caption)
    source = f"data:image/png;base64,{data}"
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
