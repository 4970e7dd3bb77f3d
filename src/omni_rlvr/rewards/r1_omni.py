"""R1-Omni's own two terms, for runs that must score completions exactly as its authors' code does.

They differ from ``accuracy`` and ``format`` in the cases that tests/rewards lists: upper case,
several answers, an answer without tags, empty and doubled blocks, white space around the whole.
``PublishedAccuracy`` needs the ``math`` extra (math-verify), as the authors' code does.

Reference: HumanMLLM/R1-Omni, ``src/r1-v/src/open_r1/grpo.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from omni_rlvr.rewards.mathematics import import_math_verify
from omni_rlvr.text.parse import parse
from omni_rlvr.types import Example

_ANSWER = re.compile(r"<answer>(.*?)</answer>")  # without DOTALL: no match across lines
_FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


class PublishedAccuracy:
    """1.0 where math-verify finds completion and solution equal, or where the first answer (the
    whole text where there is none) is exactly the solution's.

    Note:
        The authors wrap a bare label as ``<answer> LABEL </answer>``; a target that holds tags is
        the solution as it stands. math-verify reads all of a text, so that an equal number anywhere
        in it can count. Its time limit uses a signal: outside the main thread math-verify raises,
        and then, as in the authors' code, only the strings are compared.

    Raises:
        UserError: math-verify is not installed.
    """

    max_score = 1.0

    def __init__(self) -> None:
        self._library = import_math_verify("as_published reward, accuracy")

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Score N completions, 1.0 or 0.0 each."""
        rows = zip(completions, examples, strict=True)
        return [float(self._is_right(text, _solution(example))) for text, example in rows]

    def _is_right(self, text: str, solution: str) -> bool:
        return self._is_equal(text, solution) or _first(text) == _first(solution)

    def _is_equal(self, text: str, solution: str) -> bool:
        """Whether math-verify finds both equal; False if it cannot parse one of them."""
        read, verify = self._library.parse, self._library.verify
        try:
            return float(verify(read(text), read(solution))) > 0
        except Exception:  # as in the authors' code: any error means that it is no mathematics
            return False


class PublishedFormat:
    """1.0 where think tags and then answer tags enclose the whole text, whatever is in them."""

    max_score = 1.0

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Score N completions, 1.0 or 0.0 each."""
        rows = zip(completions, examples, strict=True)
        return [float(_FORMAT.fullmatch(text) is not None) for text, _ in rows]


def _solution(example: Example) -> str:
    """Return the solution that the authors' loader would pass to their reward function."""
    is_bare = parse(example.target).bare is not None
    return f"<answer> {example.answer} </answer>" if is_bare else example.target


def _first(text: str) -> str:
    found = _ANSWER.search(text)
    return (found.group(1) if found else text).strip()
