"""Escape the texts in the cells of tables, and write tables as Markdown and LaTeX.

Names of runs, models and classes come from users and may have characters that a spreadsheet, LaTeX
or Markdown interprets. They are escaped, so that the file shows them unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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
"""Characters that Markdown interprets; not a single bracket or asterisk, or ``_`` in a word."""


def csv_cell(value: object) -> object:
    """Put an apostrophe before a text that a spreadsheet would take for a formula."""
    if not isinstance(value, str) or not FORMULA.match(value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def latex_cell(text: str) -> str:
    """Escape a text for LaTeX.

    A bracket or asterisk at the beginning gets ``{}`` before it: LaTeX would read it as an argument
    of the ``\\\\`` before.
    """
    escaped = "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))
    return f"{{}}{escaped}" if escaped[:1] in ("[", "*") else escaped


def markdown_cell(text: str) -> str:
    """Escape a text for a Markdown table, in one line."""
    return MARKDOWN.sub(lambda sign: f"\\{sign[0]}", " ".join(text.split()))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a pipe table."""
    rule = [":---"] + ["---:"] * (len(header) - 1)
    head, *lines = [list(map(markdown_cell, row)) for row in (header, *rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *lines))


def latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a booktabs table."""
    head, *lines = [" & ".join(map(latex_cell, row)) + r" \\" for row in (header, *rows)]
    body = "\n".join([r"\toprule", head, r"\midrule", *lines, r"\bottomrule"])
    return f"\\begin{{tabular}}{{{'l' * len(header)}}}\n{body}\n\\end{{tabular}}\n"
