"""The score that each term must give to the hostile completions of ``test_completions``.

Accuracy and format stand in that table. The other terms that read an answer get its rows with their
own gold answer written in the place of "happy": they must give what accuracy gives, but for the
rows named here. Terms of style and length have a table of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from every_case import every_case
from test_completions import COMPLETIONS, LONG, OK, example

from omni_rlvr.rewards.accuracy import Accuracy
from omni_rlvr.rewards.choice import MultipleChoice, Question
from omni_rlvr.rewards.cues import CueCoverage
from omni_rlvr.rewards.length import CosineLength, SoftOverlong
from omni_rlvr.rewards.mathematics import MathVerify
from omni_rlvr.rewards.numeric import Numeric
from omni_rlvr.rewards.open_vocabulary import SetF1
from omni_rlvr.rewards.repetition import Repetition

BEGIN = "<think>x</think>\n<answer>"
ROWS = [(text, right) for text, right, _ in COMPLETIONS]
IDS = [text[:60] for text, _ in ROWS]


def check(term, gold: str, row: tuple[str, float], others: Mapping[str, float]) -> None:
    """A term gives what accuracy gives, or what ``others`` says of the answer block."""
    text = row[0]
    for spelling in ("happy", "Happy", "HAPPY"):
        text = text.replace(spelling, gold)
    wanted = {f"{BEGIN}{answer}</answer>": score for answer, score in others.items()}
    assert term([text], [example(gold)]) == [pytest.approx(wanted.get(text, row[1]))]


@every_case("row", ROWS, ids=IDS)
def test_multiple_choice(row) -> None:
    check(MultipleChoice(list("ABCD")), "B", row, {"B.": 1})


@every_case("row", ROWS, ids=IDS)
def test_question(row) -> None:
    text, right = row
    rows = [replace(example("happy"), cues={"question_kind": "text"})]
    assert Question()([text], rows) == [right]


@every_case("row", ROWS, ids=IDS)
def test_numeric(row) -> None:
    check(Numeric(abs_tolerance=0, rel_tolerance=0), "42", row, {"42.": 1})


@every_case("row", ROWS, ids=IDS)
def test_set_f1(row) -> None:
    check(SetF1(synonyms={}), "happy", row, {"happy, sad": 2 / 3, "happy\nsad": 2 / 3})


@every_case("row", ROWS, ids=IDS)
def test_mathematics(row) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed; it is an extra")
    # It reads past what is no mathematics.
    lenient = ("42.", "'42'", "42\nsad", "$\\text{42}$", "\\boxed{42}", "42<|im_end|>")
    check(MathVerify(timeout_s=5), "42", row, dict.fromkeys(lenient, 1))


@every_case("row", ROWS, ids=IDS)
def test_cosine_length_pays_for_right_answers_only(row) -> None:
    # Half of the limit: the middle of 0.5 to 1 for a right answer, of -1 to -0.5 for a wrong one.
    term = CosineLength(
        Accuracy(synonyms={}),
        100,
        min_value_wrong=-1.0,
        max_value_wrong=-0.5,
        min_value_correct=0.5,
        max_value_correct=1.0,
    )
    wanted = 0.75 if row[1] else -0.75
    assert term([row[0]], [example("happy")], [50]) == [pytest.approx(wanted)]


REPEATING = {
    "<think>a < b > c <b>bold</b></think>\n<answer>happy</answer>": 1 / 16,  # < b >
    f"```\n{OK}\n```": 1 / 10,
    "&lt;answer&gt;happy&lt;/answer&gt;": 3 / 14,
    f"{OK}{OK}": 4 / 10,  # five n-grams of six words, and one across; five words again
    "<think>x</think>\n<answer>happy</answer><answer>happy</answer>": 1 / 7,
    f"<think>{LONG}</think>\n<answer>happy</answer>": 9997 / 10_003,  # 10,000 signs: 1 of 9,998
    LONG: 9997 / 9998,
    "<think>" * 1000 + "<answer>happy</answer>": 997 / 1001,
    "<answer>happy" * 500 + "</answer>" * 500: 1493 / 1498,
}
"""Completion -> share of its 3-grams of words that were there before; none in all others."""


@every_case("row", ROWS, ids=IDS)
def test_repetition(row) -> None:
    assert set(REPEATING) < {text for text, _ in ROWS}
    wanted = -REPEATING.get(row[0], 0)
    assert Repetition(3, -1.0)([row[0]]) == [pytest.approx(wanted, abs=1e-12)]


@every_case("row", ROWS, ids=IDS)
def test_terms_of_style_and_length_pay_nothing(row) -> None:
    lexicon = {"visual": ["x", "happy"], "vocal": ["sad"]}
    assert CueCoverage(lexicon, min_other_words=1)([row[0]]) == [0]
    assert SoftOverlong(100, 20)([row[0]], [80]) == [0]
    assert SoftOverlong(100, 20)([row[0]], [101]) == [-1]
