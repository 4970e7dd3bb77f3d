"""Which modality a think block speaks of: a declared lexicon, counted word by word.

The words are an option (``conf/lexicon``); nothing is learnt and nothing is guessed. Whether the
lean is true to what the policy used is for ``analysis/faithfulness``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from omni_rlvr.types import UserError

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True)
class WordCounts:
    """How many words of a text are of each modality."""

    visual: int
    vocal: int

    @property
    def lean(self) -> float | None:
        """``(visual - vocal) / (visual + vocal)``: 1 sight alone, -1 hearing alone; None: neither
        is spoken of.
        """
        total = self.visual + self.vocal
        return (self.visual - self.vocal) / total if total else None


class Lexicon:
    """Words that speak of what is seen, and of what is heard; matched whole, but for case."""

    def __init__(self, visual: Sequence[str], vocal: Sequence[str]):
        """Takes the two lists.

        Args:
            visual: single words, e.g. ``brows``; a plural is a word of its own.
            vocal: likewise; no word may stand in both lists.

        Raises:
            UserError: a list is empty, or a word is blank, of several words, or in both lists.
        """
        self.visual = _words(visual, "lexicon.visual")
        self.vocal = _words(vocal, "lexicon.vocal")
        both = sorted(self.visual & self.vocal)
        if both:
            raise UserError(f"lexicon: {', '.join(both)} stands in visual and in vocal; choose one")

    def count(self, text: str) -> WordCounts:
        """Counts the words of each list in a text."""
        kinds = [kind for _, kind in self.pieces(text)]
        return WordCounts(visual=kinds.count("visual"), vocal=kinds.count("vocal"))

    def pieces(self, text: str) -> Iterator[tuple[str, str]]:
        """Cuts a text up; the pieces add up to it.

        Yields:
            A piece, and "visual" or "vocal" where it is a word of that list, else "".
        """
        done = 0
        for match in _WORD.finditer(text):
            kind = self._kind(match.group().casefold())
            if kind:
                if match.start() > done:
                    yield text[done : match.start()], ""
                yield match.group(), kind
                done = match.end()
        if done < len(text):
            yield text[done:], ""

    def _kind(self, word: str) -> str:
        return "visual" if word in self.visual else "vocal" if word in self.vocal else ""


def _words(words: Sequence[str], key: str) -> frozenset[str]:
    for word in words:
        if not isinstance(word, str) or not _WORD.fullmatch(word):
            raise UserError(f"{key}: {word!r} is not one word; quote words such as no")
    if not words:
        raise UserError(f"{key}=[] is empty: give at least one word")
    return frozenset(word.casefold() for word in words)
