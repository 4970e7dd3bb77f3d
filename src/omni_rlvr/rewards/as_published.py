"""R1-Omni's own two terms, for runs that are to earn what its authors' runs earned.

They differ from ``accuracy`` and ``format`` in the cases that tests/rewards lists: upper case,
several answers, an answer without tags, empty and doubled blocks, white space around the whole.

Reference: HumanMLLM/R1-Omni, ``src/r1-v/src/open_r1/grpo.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from omni_rlvr.types import Example

_ANSWER = re.compile(r"<answer>(.*?)</answer>")  # a dot is no newline here
_FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class PublishedAccuracy:
    """1.0 where the first answer, or the whole text where there is none, is exactly the label.

    Note:
        The authors first verify completion and label as mathematics (math-verify). Labels are
        words, where that never succeeds; for a label that is a plain number this term compares it
        with the last number of the text, which is what their function does on the recorded rows.
    """

    max_score = 1.0

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Score N completions, 1.0 or 0.0 each."""
        rows = zip(completions, examples, strict=True)
        return [float(_is_right(text, example.answer)) for text, example in rows]


class PublishedFormat:
    """1.0 where think tags and then answer tags enclose the whole text, whatever is in them."""

    max_score = 1.0

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Score N completions, 1.0 or 0.0 each."""
        rows = zip(completions, examples, strict=True)
        return [float(_FORMAT.fullmatch(text) is not None) for text, _ in rows]


def _is_right(text: str, label: str) -> bool:
    found = _ANSWER.search(text)
    if (found.group(1) if found else text).strip() == label.strip():
        return True
    numbers = _NUMBER.findall(text)
    is_number = _NUMBER.fullmatch(label.strip()) is not None
    return is_number and bool(numbers) and float(numbers[-1]) == float(label)
