"""Analyse one completion's reasoning: which modality its think block leans to, and its claims.

The lean is counted with the words of a lexicon in the config. Claims are found in the wording of a
data set with annotated cues: a value right before a cue's noun is a claim ("raised brows"), as
``wording.phrase`` writes it, and no other wording counts. Nothing here depends on the policy;
``agrees`` compares the lean with the modality that decided the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omni_rlvr.data.synthetic.emotions import CUES, VISUAL
from omni_rlvr.data.synthetic.wording import phrase
from omni_rlvr.text.modality_words import Lexicon, WordCounts
from omni_rlvr.text.parse import label_named, parse
from omni_rlvr.types import Example

_PHRASES = {phrase(cue, value): (cue, value) for cue, values in CUES.items() for value in values}
_CLAIM = re.compile(rf"\b(?:{'|'.join(map(re.escape, _PHRASES))})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Claim:
    """One statement about one cue."""

    cue: str
    value: str

    @property
    def is_visual(self) -> bool:
        """Whether the claim is about the face (else about the voice)."""
        return self.cue in VISUAL

    def is_true(self, cues: Mapping[str, str]) -> bool:
        """Whether the clip has this cue value; a claim about a cue that it lacks is false."""
        return cues.get(self.cue) == self.value


def find_claims(text: str) -> list[Claim]:
    """Find all claims, in the order they are made."""
    return [Claim(*_PHRASES[match.group().lower()]) for match in _CLAIM.finditer(text)]


@dataclass(frozen=True)
class Reasoning:
    """The contents of one completion."""

    think: str | None
    answer: str | None
    """The answer in the label list's spelling, or None."""
    words: WordCounts
    """Words of each modality in the think block; zeros without one."""
    claims: Sequence[Claim]
    """The claims that can be checked; none for a data set without cues."""
    false_claims: Sequence[Claim]
    """The claims that the clip contradicts or cannot show."""


def read_reasoning(
    text: str, example: Example, labels: Sequence[str], lexicon: Lexicon
) -> Reasoning:
    """Read a completion about a clip."""
    parsed = parse(text)
    claims = find_claims(parsed.think) if parsed.think and example.cues else []
    return Reasoning(
        think=parsed.think,
        answer=label_named(parsed.said, labels),
        words=lexicon.count(parsed.think or ""),
        claims=claims,
        false_claims=[claim for claim in claims if not claim.is_true(example.cues)],
    )


def agrees(lean: float | None, phi_video: float, phi_audio: float) -> bool | None:
    """Check whether the reasoning leans to the modality with the larger Shapley value.

    Args:
        lean: > 0 for words of sight, < 0 for words of hearing; None without either.
        phi_video: the picture's Shapley value for the answer that was given.
        phi_audio: the sound's.

    Returns:
        None if the lean or the difference of the values is zero or missing.
    """
    gap = phi_video - phi_audio
    if lean is None or lean == 0 or not gap:
        return None
    return (lean > 0) == (gap > 0)
