"""Text from outside (a model, a file name) as a terminal may show it."""

from __future__ import annotations

from unicodedata import category

UNPRINTABLE = "\ufffd"
"""Stands for what is no text; an unfinished character is decoded to it, too."""


def printable(text: str) -> str:
    """Replaces control characters, which could steer a terminal; new lines and tabs stay.

    Surrogates go too: they stand for bytes of a file name that are no text, and cannot be written.
    """
    return "".join(
        c if c in "\n\t" or category(c) not in ("Cc", "Cs") else UNPRINTABLE for c in text
    )
