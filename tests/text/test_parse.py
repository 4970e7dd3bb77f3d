"""What ``parse`` finds in a completion, field by field, and that hostile text costs linear time.

The long table of completions with the score each must give is in ``tests/rewards``.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from every_case import every_case

from omni_rlvr.text.parse import Parsed, normalise_label, parse


def test_reference_answer_is_well_formed() -> None:
    text = "<think>The video depicts a bright room.</think>\n<answer>anxious</answer>"
    assert parse(text) == Parsed("The video depicts a bright room.", "anxious", None, True)


def test_contents_are_stripped() -> None:
    parsed = parse(" \n<think>\n a\nb \n</think>\t<answer>\u3000sad \r\n</answer>\n")
    assert parsed == Parsed("a\nb", "sad", None, True)


@every_case(
    ("text", "bare"),
    [
        ("happy", "happy"),
        ("  happy \n", "happy"),
        ("", ""),
        (" \n\t", ""),
        ("<THINK>a</THINK>", "<THINK>a</THINK>"),
        ("<think >a</think >", "<think >a</think >"),
        ("<answer/>", "<answer/>"),
        ("a < b > c", "a < b > c"),
    ],
)
def test_text_without_the_four_tags_is_bare(text: str, bare: str) -> None:
    assert parse(text) == Parsed(None, None, bare, False)


@every_case("tag", ["<think>", "</think>", "<answer>", "</answer>"])
def test_a_single_tag_is_neither_bare_nor_an_answer(tag: str) -> None:
    assert parse(f"happy {tag}") == Parsed(None, None, None, False)


@every_case(
    ("text", "answer"),
    [
        ("<answer>sad</answer>", "sad"),
        ("I think <answer>sad</answer>, yes", "sad"),
        ("<answer></answer>", ""),
        ("<think>x</think><answer> </answer>", ""),
        ("x</think><answer>sad</answer>", "sad"),
        ("<think>a</think><think>b</think><answer>sad</answer>", "sad"),
        ("<think><think>a</think></think><answer>sad</answer>", "sad"),
        # an answer tag inside the think block does not count
        ("<think>not <answer>happy</answer></think><answer>sad</answer>", "sad"),
        ("<think>I write <answer> now</think><answer>sad</answer>", "sad"),
        ("<think>not </answer></think><answer>sad</answer>", "sad"),
        ("<think>only <answer>sad</answer></think>", None),
        # thinking that never ends
        ("<think>x<answer>sad</answer>", None),
        ("<think>x</think><think><answer>sad</answer>", None),
        # the answer comes last
        ("<answer>sad</answer><think>x</think>", None),
        ("<answer>sad</answer><think>", None),
        ("<answer>sad</answer></think>", None),
        ("<answer><think>x</think>sad</answer>", None),
        ("<think>x<answer>sad</think></answer>", None),
        # more or less than one block
        ("<answer>sad</answer><answer>sad</answer>", None),
        ("<answer><answer>sad</answer></answer>", None),
        ("<answer>sad</answer></answer>", None),
        ("</answer><answer>sad</answer>", None),
        ("<answer>sad", None),
        ("sad</answer>", None),
        ("</answer>sad<answer>", None),
    ],
)
def test_answer_of_text_that_is_not_well_formed(text: str, answer: str | None) -> None:
    parsed = parse(text)
    assert parsed.answer == answer
    assert parsed.bare is None
    assert not parsed.well_formed


@every_case(
    ("text", "think"),
    [
        ("<think>a</think>", "a"),
        ("<think></think>", ""),
        ("<think>I see <answer>sad</answer></think>", "I see <answer>sad</answer>"),
        ("<think>a</think><think>b</think>", None),
        ("<think><think>a</think></think>", None),
        ("<think>a", None),
        ("a</think>", None),
        ("</think>a<think>", None),
    ],
)
def test_think(text: str, think: str | None) -> None:
    assert parse(text).think == think


def test_normalise_forgives_case_and_surrounding_space_only() -> None:
    assert normalise_label(" \tHaPPy\n") == normalise_label("happy") == "happy"
    assert normalise_label("STRASSE") == normalise_label("straße")
    for other in (
        "happy.",
        "hap py",
        '"happy"',
        "happy!",
        "hap\u200bpy",
        "\uff48appy",
        "happiness",
    ):
        assert normalise_label(other) != "happy"
    assert normalise_label("very  sad") != normalise_label("very sad")


HOSTILE = {
    "opened": "<think>",
    "closed": "</answer>",
    "pairs": "<think></think><answer></answer>",
    "half tags": "<thin<answe</thi",
    "brackets": "<<<<</</</",
    "white space": " \n",
    "answers": "<answer>x</answer>",
}


@every_case("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_ten_thousand_hostile_characters_are_parsed(unit: str) -> None:
    text = f"<think>{unit * (10_000 // len(unit))}</think>\n<answer>sad</answer>"
    assert parse(text).bare is None


@every_case("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_steps_grow_in_proportion_to_the_tags(unit: str) -> None:
    """Lines executed for twice the text are at most twice as many, so no step is repeated a tag."""
    once, twice = _lines_executed(unit * 500), _lines_executed(unit * 1000)
    assert twice <= 2 * once + 10


def _lines_executed(text: str) -> int:
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        parse(text)
    finally:
        sys.settrace(before)
    return count
