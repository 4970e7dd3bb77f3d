"""Terms for questions: one for multiple choice, and one for rows that name their kind of question.

``text/questions.py`` reads and compares answers. Rows that say what kind of question they ask come
from ``data/readers/questions.py``; all kinds may stand in one batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from omni_rlvr.text.parse import parse
from omni_rlvr.text.questions import KIND, read_letter, score_answer
from omni_rlvr.types import Example, UserError


class MultipleChoice:
    """1.0 where the answer's option is the gold answer's, else 0.0.

    The letter may stand in brackets, be followed by ``.``, ``)`` or ``:`` and then by the option's
    text, which is not compared: ``B``, ``(b)``, ``B. happy``. An answer that names a second option,
    ``B. or C``, is wrong.

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
        self._choices = "".join(letters)

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Score N completions, 1.0 or 0.0 each."""
        rows = zip(completions, examples, strict=True)
        return [self._score(parse(text).answer, example.answer) for text, example in rows]

    def _score(self, answer: str | None, gold: str) -> float:
        wanted = read_letter(gold, self._choices)
        if wanted is None:
            raise ValueError(f"the gold answer {gold!r} names none of {', '.join(self._choices)}")
        return 1.0 if answer and read_letter(answer, self._choices) == wanted else 0.0


class Question:
    """1.0 for a right answer in its tag, 0.0 for a wrong or unparsed one; F1 for several letters.

    Reference:
        The rule-based rewards of Video-R1, arXiv 2503.21776, section 3.2.

    Note:
        The reference searches the text for an answer, gives free text its ROUGE score, and a
        regression one minus its relative error; here an answer stands alone, text must be equal,
        and a number is right within a tolerance.
    """

    max_score = 1.0

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Score N completions, 0.0 to 1.0 each.

        Raises:
            ValueError: A row does not say what kind of question it asks.
        """
        rows = zip(completions, examples, strict=True)
        return [self._score(parse(text).answer, example) for text, example in rows]

    def _score(self, answer: str | None, example: Example) -> float:
        if KIND not in example.cues:
            raise ValueError(
                f"{example.source}: the row does not say what kind of question it asks; this term "
                "is for dataset=questions"
            )
        return score_answer(answer, example.answer, example.cues) or 0.0
