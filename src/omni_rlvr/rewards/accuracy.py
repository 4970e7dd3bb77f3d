"""The accuracy term: is the answer between the answer tags the gold label?

What the answer is, ``text.parse`` decides. Only the tag counts: a bare ``happy`` earns nothing
here, although evaluation reads it. Strings are compared, nothing is parsed as mathematics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omni_rlvr.text.parse import normalise_label, parse
from omni_rlvr.types import Example, UserError


class Accuracy:
    """1.0 where the parsed answer equals ``example.answer``, else 0.0.

    Case and surrounding white space are forgiven; after that both sides go through ``synonyms``
    once.

    Args:
        synonyms: Spelling -> label, e.g. ``{happiness: happy}``; ``{}`` for none.

    Raises:
        UserError: ``synonyms`` is not a mapping of strings, or maps a spelling to one that is
            mapped on.

    Reference:
        R1-Omni (arXiv 2503.05379), R_acc.

    Note:
        The reference compares case-sensitively, takes the first of several answers and the whole
        text where there is no tag, and first tries to verify both as mathematics.
    """

    max_score = 1.0

    def __init__(self, synonyms: Mapping[str, str]) -> None:
        self._synonyms = _normalised(synonyms)

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Score N completions, 1.0 or 0.0 each."""
        rows = zip(completions, examples, strict=True)
        return [self._score(parse(text).answer, example.answer) for text, example in rows]

    def _score(self, answer: str | None, gold: str) -> float:
        if not answer:  # no answer, or an empty one, is right for no label
            return 0.0
        return 1.0 if self._canonical(answer) == self._canonical(gold) else 0.0

    def _canonical(self, label: str) -> str:
        label = normalise_label(label)
        return self._synonyms.get(label, label)


def _normalised(synonyms: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(synonyms, Mapping):
        raise UserError(
            f"accuracy reward, synonyms: {synonyms!r} is not a mapping; write spelling: label "
            "pairs, or {} for none"
        )
    pairs: dict[str, str] = {}
    for spelling, label in synonyms.items():
        if not isinstance(spelling, str) or not isinstance(label, str):
            raise UserError(
                f"accuracy reward, synonyms.{spelling}: {spelling!r}: {label!r} is not a pair of "
                "strings; quote it"
            )
        key, value = normalise_label(spelling), normalise_label(label)
        if key in pairs and pairs[key] != value:
            raise UserError(
                f"accuracy reward, synonyms.{spelling}: maps to {label!r} and to "
                f"{pairs[key]!r}; keep one"
            )
        pairs[key] = value
    for spelling, label in pairs.items():
        if label in pairs and pairs[label] != label:
            raise UserError(
                f"accuracy reward, synonyms.{spelling}: maps to {label!r}, which maps on to "
                f"{pairs[label]!r}; map {spelling!r} to {pairs[label]!r} itself"
            )
    return pairs
