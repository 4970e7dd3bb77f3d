"""The numeric term: is the answer the gold number, within a tolerance?

Only a number that stands alone counts: digits, a sign, one decimal point, thousands commas, an
exponent. No unit, no words, no arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from omni_rlvr.text.parse import parse
from omni_rlvr.text.questions import read_number
from omni_rlvr.types import Example, UserError


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
