"""The multiple-choice term: does the answer name the gold option, by its letter?

The letter may stand in brackets, be followed by ``.``, ``)`` or ``:`` and then by the option's
text, which is not compared: ``B``, ``(b)``, ``B. happy``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from omni_rlvr.text.parse import parse
from omni_rlvr.types import Example, UserError

_OPTION = re.compile(r"\(?([a-z])(?:[).:]+(?:\s.*)?)?", re.IGNORECASE | re.DOTALL | re.ASCII)


class MultipleChoice:
    """1.0 where the answer's option is the gold answer's, else 0.0.

    An answer that names a second option, ``B. or C``, is wrong.

    Args:
        choices: The letters that can be chosen, e.g. ``[A, B, C, D]``.

    Raises:
        UserError: ``choices`` is not a list of different single letters.
    """

    max_score = 1.0

    def __init__(self, choices: Sequence[str]) -> None:
        letters = [str(letter).upper() for letter in choices]
        if not letters or any(not re.fullmatch("[A-Z]", letter) for letter in letters):
            raise UserError(
                f"multiple choice reward, choices: {list(choices)!r} are no letters; write [A, B]"
            )
        if len(set(letters)) < len(letters):
            raise UserError(f"multiple choice reward, choices: {list(choices)!r} repeat a letter")
        self._choices = letters
        self._other = re.compile(rf"\b[{''.join(letters)}]\b", re.ASCII)

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Score N completions, 1.0 or 0.0 each."""
        rows = zip(completions, examples, strict=True)
        return [self._score(parse(text).answer, example.answer) for text, example in rows]

    def _score(self, answer: str | None, gold: str) -> float:
        wanted = self._letter(gold)
        if wanted is None:
            raise ValueError(f"the gold answer {gold!r} names none of {', '.join(self._choices)}")
        return 1.0 if answer and self._letter(answer) == wanted else 0.0

    def _letter(self, text: str) -> str | None:
        found = _OPTION.fullmatch(text.strip())
        if found is None:
            return None
        letter = found[1].upper()
        others = {*self._other.findall(text[found.end(1) :])} - {letter}
        return letter if letter in self._choices and not others else None
