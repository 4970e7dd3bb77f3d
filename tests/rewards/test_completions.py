"""Hostile completions, the score each term must give, and where the reference gives another.

The first table is ours, by hand. The second compares all of the reference's recorded rewards
(``fixtures/parity_A/rewards.json``, made by running its reward functions) with ours.
"""

from __future__ import annotations

import json
from pathlib import Path

from every_case import every_case

from omni_rlvr.rewards.accuracy import Accuracy
from omni_rlvr.rewards.format import Format
from omni_rlvr.text.parse import parse
from omni_rlvr.types import Example

OK = "<think>x</think>\n<answer>happy</answer>"
LONG = "x" * 10_000

# completion, accuracy, format; the gold answer is happy
COMPLETIONS = [
    # what is wanted, and what is forgiven
    (OK, 1, 1),
    ("<think>x</think><answer>happy</answer>", 1, 1),
    ("<think>x</think> \t\n\n<answer>happy</answer>", 1, 1),
    ("<think>x</think>\r\n<answer>happy</answer>", 1, 1),
    ("<think>x</think>\u3000<answer>happy</answer>", 1, 1),
    (f"\n{OK}", 1, 1),
    (f"  {OK}\n\n", 1, 1),
    ("<think>line 1\nline 2</think>\n<answer>happy</answer>", 1, 1),
    ("<think>x</think>\n<answer> happy </answer>", 1, 1),
    ("<think>x</think>\n<answer>\nhappy\n</answer>", 1, 1),
    ("<think>x</think>\n<answer>\u00a0happy\u00a0</answer>", 1, 1),
    ("<think>x</think>\n<answer>Happy</answer>", 1, 1),
    ("<think>x</think>\n<answer>HAPPY</answer>", 1, 1),
    ("<think>a < b > c <b>bold</b></think>\n<answer>happy</answer>", 1, 1),
    ("<think><THINK></think>\n<answer>happy</answer>", 1, 1),
    ("<think>.</think>\n<answer>happy</answer>", 1, 1),
    ("<think>\u200b</think>\n<answer>happy</answer>", 1, 1),
    (f"<think>{LONG}</think>\n<answer>happy</answer>", 1, 1),
    # a wrong label, well-formed
    ("<think>x</think>\n<answer>sad</answer>", 0, 1),
    ("<think>x</think>\n<answer>happy.</answer>", 0, 1),
    ("<think>x</think>\n<answer>'happy'</answer>", 0, 1),
    ("<think>x</think>\n<answer>happy!</answer>", 0, 1),
    ("<think>x</think>\n<answer>happiness</answer>", 0, 1),
    ("<think>x</think>\n<answer>unhappy</answer>", 0, 1),
    ("<think>x</think>\n<answer>not happy</answer>", 0, 1),
    ("<think>x</think>\n<answer>happy, sad</answer>", 0, 1),
    ("<think>x</think>\n<answer>happy sad angry fear</answer>", 0, 1),
    ("<think>x</think>\n<answer>happy\nsad</answer>", 0, 1),
    ("<think>x</think>\n<answer>hap py</answer>", 0, 1),
    ("<think>x</think>\n<answer>hap\u200bpy</answer>", 0, 1),
    ("<think>x</think>\n<answer>\uff48appy</answer>", 0, 1),
    ("<think>x</think>\n<answer>h\u0430ppy</answer>", 0, 1),  # a Cyrillic a
    ("<think>x</think>\n<answer><b>happy</b></answer>", 0, 1),
    ("<think>x</think>\n<answer>$\\text{happy}$</answer>", 0, 1),
    ("<think>x</think>\n<answer>\\boxed{happy}</answer>", 0, 1),
    ("<think>x</think>\n<answer>happy<|im_end|></answer>", 0, 1),
    ("<think>x</think>\n<answer>1</answer>", 0, 1),
    ("<think>happy</think>\n<answer>sad</answer>", 0, 1),
    ("<think>x</think>\n<answer>answer</answer>", 0, 1),
    # the right label, not well-formed
    ("<answer>happy</answer>", 1, 0),
    ("<think></think>\n<answer>happy</answer>", 1, 0),
    ("<think> \n</think>\n<answer>happy</answer>", 1, 0),
    ("<think>x</think> so <answer>happy</answer>", 1, 0),
    (f"{OK} The end.", 1, 0),
    (f"{OK}<|im_end|>", 1, 0),
    (f"Sure! {OK}", 1, 0),
    (f"```\n{OK}\n```", 1, 0),
    ("<think><think>x</think></think>\n<answer>happy</answer>", 1, 0),
    ("<think>a</think><think>b</think><answer>happy</answer>", 1, 0),
    ("<think>not <answer>sad</answer></think>\n<answer>happy</answer>", 1, 0),
    ("<think>I write <answer> next</think>\n<answer>happy</answer>", 1, 0),
    ("x</think>\n<answer>happy</answer>", 1, 0),
    ("<think >x</think>\n<answer>happy</answer>", 1, 0),
    ("<THINK>x</THINK>\n<answer>happy</answer>", 1, 0),
    # no answer that counts
    ("", 0, 0),
    (" \n", 0, 0),
    ("happy", 0, 0),
    ("  happy \n", 0, 0),
    ("Answer: happy", 0, 0),
    ("\\boxed{happy}", 0, 0),
    (LONG, 0, 0),
    ("<think>x</think>", 0, 0),
    ("<think>x</think>\nhappy", 0, 0),
    ("<think>x", 0, 0),
    ("<answer>happy", 0, 0),
    ("happy</answer>", 0, 0),
    ("<think>x</think>\n<answer>happy", 0, 0),
    ("<think>x</think>\n<answer>happy</answer", 0, 0),
    ("<think>x</think>\n<answer>happy<answer>", 0, 0),
    ("<think>x</think>\n</answer>happy<answer>", 0, 0),
    ("<think>x\n<answer>happy</answer>", 0, 0),
    ("<think>x<think>\n<answer>happy</answer>", 0, 0),
    ("<think>x<answer>happy</answer></think>", 0, 0),
    ("<think>x<answer>happy</think></answer>", 0, 0),
    ("<think>x</think>\n<answer></answer>", 0, 0),
    ("<think>x</think>\n<answer> </answer>", 0, 0),
    ("<think></think><answer></answer>", 0, 0),
    ("<THINK>x</THINK>\n<ANSWER>happy</ANSWER>", 0, 0),
    ("<Think>x</Think>\n<Answer>happy</Answer>", 0, 0),
    ("< answer>happy</ answer>", 0, 0),
    ("&lt;answer&gt;happy&lt;/answer&gt;", 0, 0),
    ("\uff1canswer\uff1ehappy\uff1c/answer\uff1e", 0, 0),
    ("<answer>happy</answer>\n<think>x</think>", 0, 0),
    (f"{OK}<think>more</think>", 0, 0),
    (f"{OK}</think>", 0, 0),
    (f"{OK}</answer>", 0, 0),
    (f"{OK}{OK}", 0, 0),
    ("<think>x</think>\n<answer>happy</answer><answer>happy</answer>", 0, 0),
    ("<think>x</think>\n<answer>happy</answer><answer>sad</answer>", 0, 0),
    ("<think>x</think>\n<answer>sad</answer><answer>happy</answer>", 0, 0),
    ("<think>x</think>\n<answer><answer>happy</answer></answer>", 0, 0),
    ("<think>x</think>\n<answer>happy<think>y</think></answer>", 0, 0),
    ("".join(f"<answer>{label}</answer>" for label in ("happy", "sad", "angry")), 0, 0),
    ("<think>" * 1000 + "<answer>happy</answer>", 0, 0),
    ("<answer>happy" * 500 + "</answer>" * 500, 0, 0),
]


def example(answer: str) -> Example:
    return Example(id="1", question="?", answer=answer, target=answer, video=None, source="a[0]")


def scores(completion: str, answer: str) -> tuple[float, float]:
    rows = [completion], [example(answer)]
    return Accuracy(synonyms={})(*rows)[0], Format()(*rows)[0]


def test_there_are_enough_different_completions() -> None:
    assert len({text for text, _, _ in COMPLETIONS}) == len(COMPLETIONS) >= 60


@every_case(
    ("completion", "accuracy", "form"), COMPLETIONS, ids=[text[:60] for text, _, _ in COMPLETIONS]
)
def test_scores(completion: str, accuracy: float, form: float) -> None:
    assert scores(completion, "happy") == (accuracy, form)


# The reference (R1-Omni, src/r1-v/src/open_r1/grpo.py) and ours as (accuracy, format), and why.
CASE = "the reference compares case-sensitively"
MULTILINE = "the reference's pattern does not cross lines, so it compares the whole text"
AROUND = "white space around the whole: the reference fails the format"
BARE = "the reference reads a text without an answer tag as the answer; ours pays the tag only"
EMPTY = "an empty block: the reference passes the format"
DOUBLED = "two answers: the reference takes the first and passes the format"
NESTED = "an answer inside the think block: the reference takes it and passes the format"
THINKS = "a doubled or nested think block: the reference passes the format"
SYMBOLIC = "the reference verifies numbers in the text as mathematics"
NO_ANSWER = "an empty answer is right for no label"
ORDER = "the answer stands before the think block"
UNCLOSED = "thinking that never ends: what follows is still thought"

DIFFERENCES = {
    4: ((0, 1), (1, 1), CASE),
    6: ((0, 1), (1, 1), CASE),
    7: ((0, 1), (1, 1), MULTILINE),
    10: ((1, 0), (1, 1), AROUND),
    11: ((1, 0), (1, 1), AROUND),
    12: ((1, 0), (1, 1), AROUND),
    13: ((1, 0), (0, 0), BARE),
    14: ((1, 0), (0, 0), BARE),
    19: ((0, 1), (0, 0), EMPTY),
    20: ((1, 1), (1, 0), EMPTY),
    21: ((1, 1), (0, 0), DOUBLED),
    22: ((0, 1), (0, 0), DOUBLED),
    24: ((0, 1), (1, 0), NESTED),
    25: ((1, 1), (1, 0), THINKS),
    26: ((1, 1), (1, 0), THINKS),
    32: ((1, 1), (0, 0), DOUBLED),
    40: ((1, 0), (0, 0), SYMBOLIC),
    47: ((1, 0), (0, 0), BARE),
    49: ((1, 1), (0, 0), NO_ANSWER),
    50: ((1, 0), (0, 0), NO_ANSWER),
    53: ((1, 0), (0, 0), ORDER),
    56: ((1, 0), (0, 0), UNCLOSED),
}

# Its solution holds two answers: no gold label can be read, and the reader refuses such a target.
AMBIGUOUS_SOLUTION = 48


def test_every_difference_from_the_reference_is_named() -> None:
    path = Path(__file__).parents[1] / "fixtures" / "parity_A" / "rewards.json"
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 61
    found = {}
    for index, row in enumerate(rows):
        solution = parse(row["solution"])
        gold = solution.answer if solution.bare is None else solution.bare
        if index == AMBIGUOUS_SOLUTION:
            assert gold is None
            continue
        assert gold is not None
        theirs, ours = (row["accuracy"], row["format"]), scores(row["completion"], gold)
        if theirs != ours:
            found[index] = (theirs, ours)
    assert found == {index: (theirs, ours) for index, (theirs, ours, _) in DIFFERENCES.items()}
