"""Read the claims of a reasoning about cues back out of its words, and check them against a clip.

This is the inverse of ``wording.phrase``: a value right before a cue's noun is a claim ("raised
brows"). No other wording counts as a claim. (This file does not stand in data/synthetic because
every file there is part of the name of its clips.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from omni_rlvr.data.synthetic.emotions import CUES, VISUAL
from omni_rlvr.data.synthetic.wording import phrase

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
