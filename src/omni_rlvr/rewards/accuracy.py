"""The accuracy term: is the answer between the answer tags the gold label?

``text.parse`` decides what the answer is. Only an answer in its tag counts: a bare ``happy`` earns
nothing here, although evaluation reads it. Strings are compared; nothing is parsed as mathematics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omni_rlvr.rewards.synonyms import canonical, checked_synonyms, label_set
from omni_rlvr.text.parse import parse
from omni_rlvr.types import Example


class Accuracy:
    """1.0 where the parsed answer equals ``example.answer``, else 0.0.

    Case and surrounding white space are ignored; then ``synonyms`` is applied once to both sides.
    If the gold answer is a list, ``happy, sad`` or ``["happy", "sad"]``, the answer must name the
    same labels, all of them and no other, in any order; ``SetF1`` gives partial credit.

    Args:
        synonyms: Spelling -> label, e.g. ``{happiness: happy}``; ``{}`` for none.

    Raises:
        UserError: ``synonyms`` is not a mapping of strings, or maps a spelling to a label that is
            itself mapped to another.

    Reference:
        R1-Omni (arXiv 2503.05379), R_acc.

    Note:
        The reference compares case-sensitively, takes the first of several answers and the whole
        text where there is no tag, and first tries to verify both as mathematics.
    """

    max_score = 1.0

    def __init__(self, synonyms: Mapping[str, str]) -> None:
        self._synonyms = checked_synonyms(synonyms, "accuracy")

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Score N completions, 1.0 or 0.0 each."""
        rows = zip(completions, examples, strict=True)
        return [self._score(parse(text).answer, example.answer) for text, example in rows]

    def _score(self, answer: str | None, gold: str) -> float:
        if not answer:  # no answer, or an empty one, is right for no label
            return 0.0
        same = canonical(answer, self._synonyms) == canonical(gold, self._synonyms)
        wanted = label_set(gold, self._synonyms)
        same_labels = len(wanted) > 1 and label_set(answer, self._synonyms) == wanted
        return 1.0 if same or same_labels else 0.0
