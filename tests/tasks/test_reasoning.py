"""Reading a completion by hand: its lean, its claims, and whether it agrees with what drove it."""

from __future__ import annotations

import pytest
from every_case import every_case

from omni_rlvr.tasks.attribute.reasoning import agrees, read_reasoning
from omni_rlvr.text.modality_words import Lexicon
from omni_rlvr.types import Example

LEXICON = Lexicon(["face", "brows", "mouth"], ["voice", "tone"])
CUES = {"brows": "raised", "mouth": "smiling", "tremor": "steady"}


def read(text: str, cues=CUES):
    clip = Example(id="a", question="?", answer="sad", target="sad", video=None, cues=cues)
    return read_reasoning(text, clip, ("happy", "sad"), LEXICON)


def test_by_hand():
    said = read(
        "<think>The face shows raised brows, gaping mouth. The voice has trembling tone.</think>"
        "<answer> Happy </answer>"
    )
    assert said.answer == "happy"
    assert (said.words.visual, said.words.vocal) == (3, 2)
    assert said.words.lean == pytest.approx(1 / 5)
    assert [c.cue for c in said.claims] == ["brows", "mouth", "tremor"]
    assert [c.cue for c in said.false_claims] == ["mouth", "tremor"]


def test_claims_about_a_modality_that_is_not_there_are_false():
    said = read("<think>raised brows, steady tone</think><answer>sad</answer>", {"brows": "raised"})
    assert [c.cue for c in said.false_claims] == ["tremor"]


def test_without_known_cues_nothing_is_claimed():
    said = read("<think>raised brows</think><answer>sad</answer>", {})
    assert said.claims == said.false_claims == []
    assert said.words.visual == 1


@every_case(
    ("text", "answer"),
    [("happy", "happy"), ("face", None), ("<think>face</think>", None), ("", None)],
)
def test_what_is_no_reasoned_answer(text: str, answer: str | None):
    said = read(text)
    assert said.answer == answer
    assert said.claims == []


def test_only_the_think_block_counts():
    said = read("voice <think>brows</think> voice <answer>happy</answer>")
    assert (said.words.visual, said.words.vocal) == (1, 0)


@every_case(
    ("lean", "video", "audio", "expected"),
    [
        (0.5, 2.0, 1.0, True),
        (0.5, 1.0, 2.0, False),
        (-0.5, 1.0, 2.0, True),
        (-0.5, -1.0, -2.0, False),
        (0.0, 1.0, 2.0, None),
        (None, 1.0, 2.0, None),
        (0.5, 1.0, 1.0, None),
    ],
)
def test_agreement_by_hand(lean, video, audio, expected):
    assert agrees(lean, video, audio) is expected
