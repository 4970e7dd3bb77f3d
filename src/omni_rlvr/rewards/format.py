"""The format term: does the completion think, then answer, and write nothing else?

``text.parse`` holds the rule; this file only turns it into a score.
"""

from __future__ import annotations

from collections.abc import Sequence

from omni_rlvr.text.parse import parse
from omni_rlvr.types import Example


class Format:
    """1.0 where the completion is well-formed, else 0.0; the gold label does not matter.

    Reference:
        R1-Omni (arXiv 2503.05379), R_format.

    Note:
        The reference also accepts doubled, nested and empty blocks, and rejects white space around
        the completion.
    """

    max_score = 1.0

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Score N completions, 1.0 or 0.0 each."""
        rows = zip(completions, examples, strict=True)
        return [1.0 if parse(text).well_formed else 0.0 for text, _ in rows]
