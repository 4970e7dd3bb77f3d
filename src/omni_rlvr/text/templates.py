"""Jinja templates of pages, which stand in files next to the code that fills them.

Autoescape is on for every one of them, so that a text from outside can only ever be text. A name
that is not given is an error instead of an empty place.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def templates(folder: Path) -> Environment:
    """Open the templates of a folder."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@cache
def macros(file: Path) -> Any:
    """Return the macros of a template file, as functions that give escaped HTML."""
    return templates(file.parent).get_template(file.name).module
