"""Text that appears while it is generated.

A token may end in the middle of a character, so text is written up to its last whole one. What a
model or a file name may hold besides text (escape sequences) never reaches the terminal.
"""

from __future__ import annotations

from collections.abc import Callable
from unicodedata import category

import torch
from torch import Tensor

_PART = "\ufffd"
"""What the bytes of an unfinished character are decoded to."""


class TextStream:
    """Writes one completion token by token."""

    def __init__(self, decode: Callable[[Tensor, Tensor], list[str]], write: Callable[[str], None]):
        """Args: a processor's ``decode``, and where text goes."""
        self.decode = decode
        self.write = write
        self.ids: list[int] = []
        self.num_written = 0

    def on_tokens(self, rows: Tensor, tokens: Tensor) -> None:
        """Takes a decoding step's tokens; row 0 is the completion that is written."""
        new = tokens[rows == 0].tolist()
        if new:
            self.ids += new
            text = self._text()
            if not text.endswith(_PART):  # the next token may make it a character
                self._write(text)

    def end(self) -> None:
        """Writes what is left: bytes that never became a character, too."""
        self._write(self._text())

    def _text(self) -> str:
        ids = torch.tensor([self.ids], dtype=torch.long)
        return self.decode(ids, torch.ones_like(ids))[0]

    def _write(self, text: str) -> None:
        if len(text) > self.num_written:
            self.write(printable(text[self.num_written :]))
            self.num_written = len(text)


def printable(text: str) -> str:
    """Replaces control characters, which could steer a terminal; new lines and tabs stay.

    Surrogates go too: they stand for bytes of a file name that are no text, and cannot be written.
    """
    return "".join(c if c in "\n\t" or category(c) not in ("Cc", "Cs") else _PART for c in text)
