"""Which modality a think block speaks of, counted with the words of a lexicon.

The words are an option (``conf/lexicon``); nothing is learnt or guessed. ``tasks/attribute``
measures whether the policy used the modality that its text speaks of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from omni_rlvr.text.parse import nfc, normalise_label
from omni_rlvr.types import UserError

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_BREAK = re.compile(r"[.,;:!?()\n]+|\b(?:and|but|while|whereas|though|although)\b")
"""Punctuation and conjunctions, which end a phrase."""
VISUAL, VOCAL = "visual", "vocal"


@dataclass(frozen=True)
class WordCounts:
    """The numbers of words of each modality in a text."""

    visual: int
    vocal: int

    @property
    def lean(self) -> float | None:
        """``(visual - vocal) / (visual + vocal)``: 1 if all counted words are visual, -1 if all are
        vocal, None if there are none.
        """
        total = self.visual + self.vocal
        return (self.visual - self.vocal) / total if total else None


@dataclass(frozen=True)
class Segment:
    """A piece of a text, for a reader."""

    text: str
    modality: str | None
    """"visual", "vocal", or None."""
    is_counted: bool
    """Whether it is one of the lexicon's words, not what surrounds it in its phrase."""


class Lexicon:
    """Words for what is seen and for what is heard; whole words are matched, ignoring case."""

    def __init__(self, visual: Sequence[str], vocal: Sequence[str]):
        """Check and normalise the two lists.

        Args:
            visual: single words, e.g. ``brows``; a plural is a word of its own.
            vocal: single words; no word may stand in both lists.

        Raises:
            UserError: a list is empty, or a word is blank, of several words, or in both lists.
        """
        self.visual = _words(visual, "lexicon.visual")
        self.vocal = _words(vocal, "lexicon.vocal")
        both = sorted(self.visual & self.vocal)
        if both:
            raise UserError(f"lexicon: {', '.join(both)} stands in visual and in vocal; choose one")

    def count(self, text: str) -> WordCounts:
        """Count the words of each list in a text."""
        words = [normalise_label(word) for word in _WORD.findall(nfc(text))]
        return WordCounts(
            visual=sum(word in self.visual for word in words),
            vocal=sum(word in self.vocal for word in words),
        )

    def segments(self, text: str) -> list[Segment]:
        """Cut a text into pieces that are marked with a modality.

        Punctuation and conjunctions separate phrases. A phrase with words of one modality alone is
        marked as a whole; in a phrase with words of both, only these words are marked.

        Returns:
            Segments that make up the text, in the Unicode form NFC.
        """
        text = nfc(text)
        out: list[Segment] = []
        start = 0
        for stop in [*_BREAK.finditer(text), None]:
            end = len(text) if stop is None else stop.start()
            out += self._phrase(text[start:end])
            if stop is not None:
                out.append(Segment(stop.group(), None, False))
                start = stop.end()
        return [segment for segment in out if segment.text]

    def _phrase(self, text: str) -> list[Segment]:
        found = [(word, self._modality(word.group())) for word in _WORD.finditer(text)]
        marks = [(word, modality) for word, modality in found if modality is not None]
        one = {modality for _, modality in marks}
        around = one.pop() if len(one) == 1 else None
        body = text.strip()
        first = len(text) - len(text.lstrip())
        out, place = [Segment(text[:first], None, False)], first
        for word, modality in marks:
            out.append(Segment(text[place : word.start()], around, False))
            out.append(Segment(word.group(), modality, True))
            place = word.end()
        out.append(Segment(text[place : first + len(body)], around, False))
        return [*out, Segment(text[first + len(body) :], None, False)]

    def _modality(self, word: str) -> str | None:
        word = normalise_label(word)
        return VISUAL if word in self.visual else VOCAL if word in self.vocal else None


def _words(words: Sequence[str], key: str) -> frozenset[str]:
    for word in words:
        if not isinstance(word, str) or not _WORD.fullmatch(nfc(word)):
            raise UserError(f"{key}: {word!r} is not one word; quote words such as no")
    if not words:
        raise UserError(f"{key}=[] is empty: give at least one word")
    return frozenset(normalise_label(word) for word in words)
