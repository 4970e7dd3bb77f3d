"""Text that appears while it is generated.

A token may end in the middle of a character, so text is written up to its last whole one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from omni_rlvr.text.terminal import UNPRINTABLE, printable


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
            ids = torch.tensor([self.ids])
            (text,) = self.decode(ids, torch.ones_like(ids))
            if not text.endswith(UNPRINTABLE):  # the next token may make it a character
                self._write(text)

    def end(self, completion: str) -> None:
        """Writes what is left of the whole completion, and a new line."""
        self._write(completion)
        self.write("\n")

    def _write(self, text: str) -> None:
        if len(text) > self.num_written:
            self.write(printable(text[self.num_written :]))
            self.num_written = len(text)
