"""Answers to questions of each kind: what is read, what is unparsed, and what is right."""

from __future__ import annotations

import pytest
from every_case import every_case

from omni_rlvr.text.questions import read_answer, score_answer

CHOICE = {"question_kind": "choice", "num_options": "4"}
SEVERAL = {"question_kind": "several", "num_options": "5"}
NUMBER = {"question_kind": "number", "abs_tolerance": "0.005", "rel_tolerance": "0.1"}
YES_NO, TEXT = {"question_kind": "yes_no"}, {"question_kind": "text"}


@every_case(
    ("question", "text", "read"),
    [
        (CHOICE, "B", "B"),
        (CHOICE, " (b) ", "B"),
        (CHOICE, "D. a man laughs", "D"),
        (CHOICE, "E", None),  # there are four
        (CHOICE, "B. or C", None),
        (CHOICE, "I see a face", None),  # no letter stands alone at its beginning
        (CHOICE, "Answer: C", None),
        (CHOICE, "", None),
        (SEVERAL, "A, E", {"A", "E"}),
        (SEVERAL, "A,E", {"A", "E"}),
        (SEVERAL, '["a", "c"]', {"A", "C"}),
        (SEVERAL, "A, happy", None),
        (SEVERAL, "", None),
        (YES_NO, "Yes.", "yes"),
        (YES_NO, "NO", "no"),
        (YES_NO, "yes and no", None),
        (YES_NO, "I know", None),
        (NUMBER, "1,234.5", 1234.5),
        (NUMBER, "3 cats", None),
        (NUMBER, "nan", None),
        (TEXT, " Exit Only ", "exit only"),
        (TEXT, "  ", None),
    ],
)
def test_what_is_read(question: dict, text: str, read: object) -> None:
    assert read_answer(text, question) == read


@every_case(
    ("question", "text", "gold", "score"),
    [
        (CHOICE, "b) sad", "B", 1.0),
        (CHOICE, "C", "B", 0.0),
        (CHOICE, "perhaps B", "B", None),
        (CHOICE, None, "B", None),
        (SEVERAL, "E, A", "A,E", 1.0),
        (SEVERAL, "A", "A, E", 2 / 3),  # P = 1, R = 1/2
        (SEVERAL, "A, B, C, D, E", "A", 1 / 3),  # P = 1/5, R = 1
        (YES_NO, "No", "no", 1.0),
        (YES_NO, "know", "No", None),
        (NUMBER, "110", "100", 1.0),  # a tenth of 100
        (NUMBER, "110.1", "100", 0.0),
        (NUMBER, "0.004", "0", 1.0),
        (NUMBER, "many", "0", None),
        (TEXT, "EXIT", "exit", 1.0),
        (TEXT, "exits", "exit", 0.0),
    ],
)
def test_what_is_right(question: dict, text: str | None, gold: str, score: float | None) -> None:
    found = score_answer(text, gold, question)
    assert found == (None if score is None else pytest.approx(score))


def test_a_gold_answer_of_another_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="'happy' is no answer of kind number"):
        score_answer("1", "happy", NUMBER)
