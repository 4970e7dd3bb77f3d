"""Each term by hand, beside the hostile table: options, values, and what is refused."""

from __future__ import annotations

import math
import sys

import pytest
from every_case import every_case

from omni_rlvr.rewards.accuracy import Accuracy
from omni_rlvr.rewards.choice import MultipleChoice
from omni_rlvr.rewards.format import Format
from omni_rlvr.rewards.length import CosineLength, SoftOverlong
from omni_rlvr.rewards.mathematics import MathVerify
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.rewards.numeric import Numeric
from omni_rlvr.rewards.open_vocabulary import SetF1
from omni_rlvr.rewards.repetition import Repetition, words
from omni_rlvr.types import Example, UserError


def score(term, answer: str, gold: str) -> float:
    example = Example(id="1", question="?", answer=gold, target=gold, video=None)
    return term([f"<think>x</think><answer>{answer}</answer>"], [example])[0]


@every_case(
    ("answer", "gold", "wanted"),
    [
        ("B", "B", 1), ("b", "B", 1), ("(B)", "B", 1), ("(b", "B", 1), ("B.", "B", 1),
        ("B)", "b", 1), ("B: happy", "B", 1), ("B. happy", "B. happy", 1),
        ("B. sad", "B. happy", 1),  # the text is not compared
        ("B. I think so", "B", 1),  # I is no choice
        ("B.\nhappy", "B", 1), ("B. B", "B", 1),
        ("C", "B", 0), ("E", "B", 0), ("BB", "B", 0), ("AB", "B", 0), ("A, B", "B", 0),
        ("A or B", "B", 0), ("B or C", "B", 0), ("B. or C", "B", 0), ("B) C) D)", "B", 0),
        ("B.C", "B", 0), ("B happy", "B", 0), ("happy", "B", 0), ("The answer is B", "B", 0),
        ("not B", "B", 0), ("\u0412", "B", 0),  # a Cyrillic letter that looks like B
        ("", "B", 0), (".", "B", 0), ("()", "B", 0),
    ],
)  # fmt: skip
def test_multiple_choice(answer: str, gold: str, wanted: float) -> None:
    assert score(MultipleChoice(["A", "B", "C", "D"]), answer, gold) == wanted


def test_the_choices_decide_what_is_a_second_option() -> None:
    assert score(MultipleChoice(["A", "B"]), "B. C major", "B") == 1
    assert score(MultipleChoice(["A", "B", "C"]), "B. C major", "B") == 0


def test_a_gold_answer_that_is_no_choice_stops_the_run() -> None:
    with pytest.raises(ValueError, match="'happy' names none of A, B"):
        score(MultipleChoice(["A", "B"]), "A", "happy")


@every_case("choices", [[], ["A", "A"], ["A", "a"], ["AB"], [1], ["\u00c4"]])
def test_choices_that_are_refused(choices) -> None:
    with pytest.raises(UserError, match="choices"):
        MultipleChoice(choices)


@every_case(
    ("answer", "gold", "wanted"),
    [
        ("42", "42", 1), ("42.0", "42", 1), (" +42 ", "42", 1), ("4.2e1", "42", 1),
        ("1,234,567.5", "1234567.5", 1), (".5", "0.5", 1), ("-3", "-3", 1), ("0042", "42", 1),
        ("42.5", "42", 1), ("41.5", "42", 1),  # abs_tolerance 0.5
        ("42.51", "42", 0), ("1010", "1000", 1), ("1010.1", "1000", 0),  # rel_tolerance 0.01
        ("-42", "42", 0), ("42 or 43", "42", 0), ("42, 43", "42", 0), ("42 kg", "42", 0),
        ("42%", "42", 0), ("40+2", "42", 0), ("6*7", "42", 0), ("84/2", "42", 0),
        ("1,2345", "12345", 0), ("4_2", "42", 0), ("\uff14\uff12", "42", 0), ("0x2a", "42", 0),
        ("nan", "42", 0), ("inf", "42", 0), ("1e999", "42", 0), ("-1e999", "42", 0),
        ("", "42", 0), (".", "42", 0), ("-", "42", 0), ("e5", "42", 0), ("forty-two", "42", 0),
        ("9" * 400, "42", 0), ("9" * 10_000, "42", 0),
    ],
)  # fmt: skip
def test_numeric(answer: str, gold: str, wanted: float) -> None:
    assert score(Numeric(abs_tolerance=0.5, rel_tolerance=0.01), answer, gold) == wanted


@every_case("tolerance", [-1, math.nan, math.inf, "1"])
def test_tolerances_that_are_refused(tolerance) -> None:
    with pytest.raises(UserError, match="abs_tolerance"):
        Numeric(abs_tolerance=tolerance, rel_tolerance=0)
    with pytest.raises(UserError, match="rel_tolerance"):
        Numeric(abs_tolerance=0, rel_tolerance=tolerance)


def test_a_gold_answer_that_is_no_number_stops_the_run() -> None:
    with pytest.raises(ValueError, match="'happy' is not a number"):
        score(Numeric(abs_tolerance=0, rel_tolerance=0), "1", "happy")


@every_case(
    ("answer", "gold", "wanted"),
    [
        ("happy", "happy", 1),
        ("Surprised, HAPPY", "happy; surprised", 1),
        ("happy, happy, happy", "happy", 1),
        ("joyful", "happy", 1),  # declared
        ("joyful, happy", "happy", 1),  # one label, two spellings
        ("happy, sad", "happy", 2 / 3),  # P 1/2, R 1
        ("happy", "happy, sad", 2 / 3),  # P 1, R 1/2
        ("happy, calm", "happy, sad", 1 / 2),
        ("happy, sad, angry, fear, calm, disgust, surprise", "happy", 1 / 4),  # P 1/7: 2/8
        ("happy/sad|calm\nfear\u3001disgust", "happy", 1 / 3),  # P 1/5: 2/6
        ("sad", "happy", 0),
        ("happy sad", "happy", 0),  # one label of two words
        (", ;", "happy", 0),
        ("", "happy", 0),
        ("happy", " , ", 0),
    ],
)
def test_set_f1(answer: str, gold: str, wanted: float) -> None:
    assert score(SetF1(synonyms={"joyful": "happy"}), answer, gold) == pytest.approx(wanted)


@pytest.mark.parametrize("gold", ['["happy", "sad"]', "['happy', 'sad']", "[happy, sad]"])
def test_a_written_list_is_its_labels(gold: str) -> None:
    assert score(SetF1(synonyms={}), "happy, sad", gold) == 1.0
    assert score(SetF1(synonyms={}), "happy", gold) == pytest.approx(2 / 3)  # 2 * 1 / (1 + 2)


def test_synonyms_of_the_set_are_checked() -> None:
    with pytest.raises(UserError, match=r"open vocabulary reward, synonyms\.a"):
        SetF1(synonyms={"a": "b", "b": "c"})


@every_case(
    ("length", "wanted"),
    # From 80 on, over 20 tokens: -(85 - 80) / 20, and so on.
    [(0, 0), (80, 0), (81, -0.05), (85, -0.25), (90, -0.5), (100, -1), (101, -1), (10_000, -1)],
)
def test_soft_overlong(length: int, wanted: float) -> None:
    assert SoftOverlong(100, 20)([""], [length]) == [pytest.approx(wanted)]


def test_soft_overlong_without_a_cache_is_a_step() -> None:
    assert SoftOverlong(100, 0)([""] * 2, [100, 101]) == [0, -1]


@every_case(("limit", "cache"), [(0, 0), (10, -1), (10, 11), ("10", 1)])
def test_overlong_values_that_are_refused(limit, cache) -> None:
    with pytest.raises(UserError, match=r"soft overlong reward, (max_comp|soft_punish)"):
        SoftOverlong(limit, cache)


VALUES = {
    "min_value_wrong": -1.0,
    "max_value_wrong": -0.5,
    "min_value_correct": 0.5,
    "max_value_correct": 1.0,
}


@every_case(
    ("length", "right", "wrong"),
    # cos 0 = 1, cos pi/4 = 0.7071, cos pi/2 = 0, cos pi = -1, and no further.
    [(0, 1, -1), (25, 0.9268, -0.9268), (50, 0.75, -0.75), (100, 0.5, -0.5), (150, 0.5, -0.5)],
)
def test_cosine_length(length: int, right: float, wrong: float) -> None:
    term = CosineLength(Accuracy(synonyms={}), 100, **VALUES)
    example = Example(id="1", question="?", answer="a", target="a", video=None)
    texts = ["<answer>a</answer>", "<answer>b</answer>"]
    got = term(texts, [example] * 2, [length] * 2)
    assert got == [pytest.approx(right, abs=1e-4), pytest.approx(wrong, abs=1e-4)]
    assert term.max_score == 1


def test_cosine_length_needs_ordered_values_and_a_full_score() -> None:
    with pytest.raises(UserError, match=r"does not hold for 0\.6, -0\.5"):
        CosineLength(Accuracy(synonyms={}), 100, **VALUES | {"min_value_wrong": 0.6})
    with pytest.raises(UserError, match="max_score"):
        CosineLength(lambda completions: [1.0], 100, **VALUES)
    with pytest.raises(UserError, match=r"cosine_length\.correct: .*is not a reward term"):
        CosineLength(lambda texts: [1.0], 100, **VALUES)
    with pytest.raises(UserError, match="max_completion_length"):
        CosineLength(Accuracy(synonyms={}), 0, **VALUES)


def test_cosine_length_cannot_judge_what_its_term_cannot() -> None:
    class Unsure:
        max_score = 1.0

        def __call__(self, completions):
            return [None] * len(completions)

    assert CosineLength(Unsure(), 100, **VALUES)(["a"], [None], [1]) == [None]


@every_case(
    ("text", "wanted"),
    [
        ("", 0), ("a", 0), ("a b c", 0), ("a b c d e f g", 0),
        ("a b c a b c", -1 / 4),  # abc bca cab abc: 1 of 4 again
        ("a a a a a a", -3 / 4), ("A a, a A a", -0 / 3),
        ("ha ha ha ha ha ha ha ha ha ha", -7 / 8),
        ("\u597d\u597d\u597d\u597d\u597d", -2 / 3),  # characters, where there are no spaces
        ("\u5979\u5f88\u9ad8\u5174", 0),
        ("x" * 102, -99 / 100),  # one endless word counts by its characters
        ("!!!!!", -2 / 3),
    ],
)  # fmt: skip
def test_repetition(text: str, wanted: float) -> None:
    assert Repetition(3, -1.0)([text]) == [pytest.approx(wanted)]
    assert Repetition(3, -0.5)([text]) == [pytest.approx(wanted / 2)]


def test_the_size_of_the_ngrams_counts() -> None:
    assert Repetition(1, -1.0)(["a b a"]) == [pytest.approx(-1 / 3)]
    assert list(words("Don't <think>x\u00e9 \u597d")) == [
        "don",
        "'",
        "t",
        "<think>",
        "x\u00e9",
        "\u597d",
    ]


@every_case(("size", "penalty"), [(0, -1), (3, 0.1), (3, math.nan), ("3", -1)])
def test_repetition_values_that_are_refused(size, penalty) -> None:
    with pytest.raises(UserError, match=r"repetition reward, (ngram_size|max_penalty)"):
        Repetition(size, penalty)


@every_case(
    ("answer", "gold", "wanted"),
    [
        ("1/2", "0.5", 1), ("\\frac{1}{2}", "0.5", 1), ("$\\frac{2}{4}$", "1/2", 1),
        ("x^2+2x+1", "(x+1)^2", 1), ("0.51", "0.5", 0), ("", "1", 0), ("happy", "1", 0),
    ],
)  # fmt: skip
def test_mathematics(answer: str, gold: str, wanted: float) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed; it is an extra")
    assert score(MathVerify(timeout_s=60), answer, gold) == wanted  # a busy machine takes its time


def test_mathematics_without_its_library_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(UserError, match=r"pip install 'omni-rlvr\[math\]'") as caught:
        MathVerify(timeout_s=5)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="timeout_s"):
        MathVerify(timeout_s=0)


def test_penalties_and_rewards_add_up() -> None:
    terms = {"format": Format(), "soft_overlong": SoftOverlong(10, 5), "rep": Repetition(1, -1)}
    mixture = Mixture(terms, {"format": 1.0, "soft_overlong": 0.5, "rep": 2.0})
    example = Example(id="1", question="?", answer="a", target="a", video=None)
    text = "<think>b c</think><answer>a a</answer>"
    # 1 - 0.5 * 3/5 - 2 * 1/8 (four tags, b, c, a, a: 7 different of 8)
    assert mixture([text], [example], [8]).rewards.tolist() == [pytest.approx(1 - 0.3 - 0.25)]
    assert mixture.max_reward == 1
