"""The numeric term: is the answer the gold number, within a tolerance?

Only a number that stands alone counts: digits, a sign, one decimal point, thousands commas, an
exponent. No unit, no words, no arithmetic.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from omni_rlvr.text.parse import parse
from omni_rlvr.types import Example, UserError

_NUMBER = re.compile(
    r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII
)


class Numeric:
    """1.0 where |answer - gold| <= max(abs_tolerance, rel_tolerance |gold|), else 0.0.

    Args:
        abs_tolerance: In the answer's unit, 0 or more.
        rel_tolerance: A share of the gold number, 0 or more.

    Raises:
        UserError: A tolerance is negative or not a finite number.
    """

    max_score = 1.0

    def __init__(self, abs_tolerance: float, rel_tolerance: float) -> None:
        for key, value in (("abs_tolerance", abs_tolerance), ("rel_tolerance", rel_tolerance)):
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise UserError(f"numeric reward, {key}: {value!r} is not 0 or more, and finite")
        self._absolute, self._relative = abs_tolerance, rel_tolerance

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Score N completions, 1.0 or 0.0 each."""
        rows = zip(completions, examples, strict=True)
        return [self._score(parse(text).answer, example.answer) for text, example in rows]

    def _score(self, answer: str | None, gold: str) -> float:
        wanted = read_number(gold)
        if wanted is None:
            raise ValueError(f"the gold answer {gold!r} is not a number")
        given = None if answer is None else read_number(answer)
        if given is None:
            return 0.0
        return float(abs(given - wanted) <= max(self._absolute, self._relative * abs(wanted)))


def read_number(text: str) -> float | None:
    """Read a finite number that stands alone, or None."""
    text = text.strip()
    if _NUMBER.fullmatch(text) is None:
        return None
    try:
        value = float(text.replace(",", ""))
    except ValueError:  # the pattern lets "." and "e5" through
        return None
    return value if math.isfinite(value) else None
