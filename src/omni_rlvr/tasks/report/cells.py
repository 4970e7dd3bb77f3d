"""Texts in the cells of tables: what a spreadsheet, LaTeX or Markdown would take for its own.

Names of runs, models and classes come from outside. A reader of the file sees them as they are.
"""

from __future__ import annotations

import re

FORMULA = re.compile("[=+\\-@\t\r\n＝＋－＠]")
"""First characters that make a cell of a csv file a formula in a spreadsheet."""
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
MARKDOWN = re.compile(r"[\\`<>|$]|\](?=[(\[])|(?<!\w)_|_(?!\w)|\*(?=.*\*)|~(?=~)|&(?=#?\w+;)")
"""Signs that mean something there: not a bracket, an asterisk alone, an underscore in a word."""


def csv_cell(value: object) -> object:
    """Put an apostrophe before a text that a spreadsheet would compute; numbers stay numbers."""
    if not isinstance(value, str) or not FORMULA.match(value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def latex_cell(text: str) -> str:
    """Write a text so that LaTeX prints it; ``±`` is its sign for it.

    A bracket or asterisk at the beginning would belong to the end of the line before.
    """
    escaped = "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))
    return f"{{}}{escaped}" if escaped[:1] in ("[", "*") else escaped


def markdown_cell(text: str) -> str:
    """Write a text so that a Markdown table shows it, in one line."""
    return MARKDOWN.sub(lambda sign: f"\\{sign[0]}", " ".join(text.split()))
