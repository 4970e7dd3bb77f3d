"""Read one completion's reasoning: which modality its think block leans to, and what it claims.

The lean comes from a declared lexicon, the claims from the wording of a data set that knows its
cues. Nothing here depends on the policy; ``agrees`` compares the lean with what drove the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omni_rlvr.tasks.attribute.claims import Claim, find_claims
from omni_rlvr.text.modality_words import Lexicon, WordCounts
from omni_rlvr.text.parse import normalise_label, parse
from omni_rlvr.types import Example


@dataclass(frozen=True)
class Reasoning:
    """What one completion says."""

    think: str | None
    answer: str | None
    """The answer in the label list's spelling, or None."""
    words: WordCounts
    """Counted in the think block; zeros without one."""
    claims: Sequence[Claim]
    """The claims that can be checked; none where the data set knows no cues."""
    false_claims: Sequence[Claim]
    """The claims that the clip contradicts or cannot show."""


def read_reasoning(
    text: str, example: Example, labels: Sequence[str], lexicon: Lexicon
) -> Reasoning:
    """Read a completion about a clip."""
    parsed = parse(text)
    answer = parsed.answer if parsed.bare is None else parsed.bare
    known = {normalise_label(label): label for label in labels}
    claims = find_claims(parsed.think) if parsed.think and example.cues else []
    return Reasoning(
        think=parsed.think,
        answer=None if answer is None else known.get(normalise_label(answer)),
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
        None where one of the two takes no side.
    """
    gap = phi_video - phi_audio
    if lean is None or lean == 0 or not gap:
        return None
    return (lean > 0) == (gap > 0)
