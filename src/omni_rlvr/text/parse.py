"""Parse a completion: its thinking, its answer, and whether it keeps the format.

Rewards, evaluation and data readers all use this parser, so that they agree on the answer. The tags
are found in one left-to-right scan with a pattern that cannot backtrack, so hostile text costs
linear time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import normalize

_TAG = re.compile(r"</?(?:think|answer)>")
_THINK_TAGS = ["<think>", "</think>"]
_ANSWER_TAGS = ["<answer>", "</answer>"]
_BLANK, _TEXT = False, True
_SEPARATOR = re.compile(r"[,;/|\n\u3001\uff0c\uff1b]")


@dataclass(frozen=True)
class Parsed:
    """What ``parse`` found in one completion or annotated target."""

    think: str | None
    """The stripped content of the only think block, or None."""
    answer: str | None
    """The stripped content of the only answer block (may be ``""``), or None."""
    bare: str | None
    """The stripped whole text when it holds none of the four tags, else None."""
    well_formed: bool
    """One think block, then one answer block, neither empty, nothing else but white space."""

    @property
    def said(self) -> str | None:
        """The answer, or all of a text without tags: a model trained on labels writes just a label.

        None if there are tags, but no answer in them.
        """
        return self.answer if self.bare is None else self.bare


def parse(text: str) -> Parsed:
    """Parse a completion by the strict rules of ``<think>...</think> <answer>...</answer>``.

    Tags are exact and lower-case. Well-formed is: one think block, then one answer block, both with
    something other than white space in them, and white space only before, between and after. An
    answer is read from text that is not well-formed too, if there is exactly one answer block that
    could be meant:

    * a ``<think>`` opens thinking and the next ``</think>`` ends it; answer tags in between do not
      count, nor does anything after a ``<think>`` that is never closed;
    * the answer tags that remain must be one ``<answer>`` and one ``</answer>``, in that order;
    * no think tag may follow the ``<answer>``: the answer comes last.

    Args:
        text: A decoded completion, or the assistant turn of an annotation.

    Returns:
        The parts found; each is None where the rules find none.
    """
    tags = list(_TAG.finditer(text))
    if not tags:
        return Parsed(think=None, answer=None, bare=text.strip(), well_formed=False)
    return Parsed(
        think=_think(text, tags),
        answer=_answer(text, tags),
        bare=None,
        well_formed=_well_formed(text, tags),
    )


def nfc(text: str) -> str:
    """Put a text into the Unicode form NFC, in which texts are compared.

    ``é`` may be one character, or ``e`` and an accent; on screen they are the same. Find the tags
    of a text before: a combining mark after a tag would merge with its ``>``.
    """
    return normalize("NFC", text)


def nfc_between_tags(text: str) -> str:
    """Put the text between tags into NFC, and leave the tags as they are."""
    if text.isascii():
        return text
    pieces = zip(_TAG.split(text), [*_TAG.findall(text), ""], strict=True)
    return "".join(nfc(piece) + tag for piece, tag in pieces)


def normalise_label(text: str) -> str:
    """Remove the differences that two spellings of one label may have.

    These are case, surrounding white space and the Unicode form (NFC). Punctuation, inner white
    space and look-alike characters, full-width ones too, are kept: ``happy.`` is not ``happy``.
    """
    folded = text.strip().casefold()
    return folded if folded.isascii() else nfc(nfc(text).strip().casefold())


def label_named(answer: str | None, labels: Sequence[str]) -> str | None:
    """Return the label that equals an answer, in the spelling of the list, or None."""
    known = {normalise_label(label): label for label in labels}
    return None if answer is None else known.get(normalise_label(answer))


def listed_labels(text: str) -> list[str]:
    """Split an answer of several labels: ``happy, sad``, or a list as JSON and Python write it.

    Commas, semicolons, slashes, bars, new lines and their full-width forms separate labels.
    """
    inner = text.strip()
    is_list = inner.startswith("[") and inner.endswith("]")
    around = " \t\r\n'\"" if is_list else None
    parts = _SEPARATOR.split(inner[1:-1] if is_list else inner)
    return [label for part in parts if (label := part.strip(around))]


def _well_formed(text: str, tags: Sequence[re.Match[str]]) -> bool:
    if [tag.group() for tag in tags] != _THINK_TAGS + _ANSWER_TAGS:
        return False
    starts = [0, *(tag.end() for tag in tags)]
    ends = [*(tag.start() for tag in tags), len(text)]
    pieces = [bool(text[start:end].strip()) for start, end in zip(starts, ends, strict=True)]
    return pieces == [_BLANK, _TEXT, _BLANK, _TEXT, _BLANK]


def _think(text: str, tags: Sequence[re.Match[str]]) -> str | None:
    return _content(text, [tag for tag in tags if tag.group() in _THINK_TAGS], _THINK_TAGS)


def _answer(text: str, tags: Sequence[re.Match[str]]) -> str | None:
    thinking = False
    outside: list[re.Match[str]] = []
    for tag in tags:
        if tag.group() in _THINK_TAGS:
            if outside:
                return None
            thinking = tag.group() == "<think>"
        elif not thinking:
            outside.append(tag)
    return _content(text, outside, _ANSWER_TAGS)


def _content(text: str, tags: Sequence[re.Match[str]], pair: Sequence[str]) -> str | None:
    """Return the text between the tags, if they are exactly this pair."""
    if [tag.group() for tag in tags] != pair:
        return None
    return text[tags[0].end() : tags[1].start()].strip()
