"""Jinja templates of pages, which stand in files next to the code that fills them.

Autoescape is always on, so that text from outside can never become HTML. A variable that is not
given is an error instead of an empty string.
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
