"""The open-vocabulary term: how much do two sets of labels agree?

The answer and the gold answer are lists such as ``happy, surprised`` or ``["happy", "surprised"]``.
Naming more labels than there are costs precision, so listing the whole vocabulary earns little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omni_rlvr.rewards.synonyms import checked_synonyms, label_set
from omni_rlvr.text.parse import parse
from omni_rlvr.types import Example


class SetF1:
    """F1 = 2 P R / (P + R) between the answer's labels and the gold ones, from 0.0 to 1.0.

    Labels are split at commas, semicolons, slashes, bars and new lines, compared as in
    ``Accuracy``, and counted once however often they are named. P is the share of the answer's
    labels that are gold, R the share of the gold labels that are named.

    Args:
        synonyms: Spelling -> label, ``{}`` for none. OV-MERD groups its labels in this way; without
            a grouping, near synonyms count as wrong.

    Raises:
        UserError: ``synonyms`` is not a mapping of strings, or maps a spelling to a label that is
            itself mapped to another.

    Reference:
        OV-MERD, arXiv 2410.01495 (set-level precision and recall); F1 as in AffectGPT,
        arXiv 2501.16566.
    """

    max_score = 1.0

    def __init__(self, synonyms: Mapping[str, str]) -> None:
        self._synonyms = checked_synonyms(synonyms, "open vocabulary")

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Score N completions, 0.0 to 1.0 each."""
        rows = zip(completions, examples, strict=True)
        return [self._score(parse(text).answer, example.answer) for text, example in rows]

    def _score(self, answer: str | None, gold: str) -> float:
        named, wanted = (label_set(text, self._synonyms) for text in (answer or "", gold))
        if not named or not wanted:
            return 0.0
        return 2 * len(named & wanted) / (len(named) + len(wanted))
