"""Questions whose answers rules can check: which kinds there are, and how an answer is read.

Reader, reward and evaluation all use this file, so that they agree on what an answer is. Text that
cannot be read as an answer of its kind counts as unparsed, not as wrong.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping

from omni_rlvr.text.parse import listed_labels, normalise_label

CHOICE, SEVERAL, YES_NO, NUMBER, TEXT = "choice", "several", "yes_no", "number", "text"
KINDS = (CHOICE, SEVERAL, YES_NO, NUMBER, TEXT)
"""One letter, any number of letters, yes or no, a number, or a few words that are compared."""
KIND, NUM_OPTIONS, ABSOLUTE, RELATIVE = (
    "question_kind", "num_options", "abs_tolerance", "rel_tolerance"
)  # fmt: skip
"""Keys in the ``cues`` of an example that asks such a question."""
_OPTION = re.compile(r"\(?([a-z])(?:[).:]+(?:\s.*)?)?", re.IGNORECASE | re.DOTALL | re.ASCII)
_NUMBER = re.compile(
    r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII
)


def read_letter(text: str, letters: str) -> str | None:
    """Read the option that an answer names: ``B``, ``(b)``, ``B. happy``; None if it names none.

    The option's text is not compared. ``B. or C`` names two options, and so none.

    Args:
        text: The answer.
        letters: The capital letters that can be chosen.
    """
    found = _OPTION.fullmatch(text.strip())
    if found is None:
        return None
    letter = found[1].upper()
    named = {*re.findall(rf"\b[{letters}]\b", text[found.end(1) :], re.ASCII)}
    return letter if letter in letters and not named - {letter} else None


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


def read_answer(text: str, question: Mapping[str, str]) -> str | float | frozenset[str] | None:
    """Read an answer as the question asks for it.

    Args:
        text: The answer, without tags.
        question: The ``cues`` of its example.

    Returns:
        A letter, a set of letters, "yes" or "no", a number, or text in lower case; None if the text
        cannot be read as an answer of that kind.
    """
    kind = question[KIND]
    letters = string.ascii_uppercase[: int(question.get(NUM_OPTIONS, 26))]
    if kind == CHOICE:
        return read_letter(text, letters)
    if kind == SEVERAL:
        read = [read_letter(label, letters) for label in listed_labels(text)]
        named = [letter for letter in read if letter is not None]
        return frozenset(named) if named and len(named) == len(read) else None
    if kind == NUMBER:
        return read_number(text)
    word = normalise_label(text)
    if kind == YES_NO:
        word = word.rstrip(".!")
        return word if word in ("yes", "no") else None
    return word or None


def score_answer(text: str | None, gold: str, question: Mapping[str, str]) -> float | None:
    """Score an answer against the gold one.

    Args:
        text: The answer, without tags; None if there is none.
        gold: The gold answer.
        question: The ``cues`` of its example.

    Returns:
        F1 of the two sets for several letters, 1.0 or 0.0 for the other kinds; None if the answer
        is unparsed.

    Raises:
        ValueError: The gold answer cannot be read as one of its kind.
    """
    wanted = read_answer(gold, question)
    if wanted is None:
        raise ValueError(f"the gold answer {gold!r} is no answer of kind {question[KIND]}")
    given = None if text is None else read_answer(text, question)
    if given is None:
        return None
    if isinstance(given, frozenset) and isinstance(wanted, frozenset):
        return 2 * len(given & wanted) / (len(given) + len(wanted))
    if isinstance(given, float) and isinstance(wanted, float):
        allowed = max(
            float(question.get(ABSOLUTE, 0)), float(question.get(RELATIVE, 0)) * abs(wanted)
        )
        return float(abs(given - wanted) <= allowed)
    return float(given == wanted)
