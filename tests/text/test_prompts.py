"""The published wordings, letter by letter where they differ."""

from __future__ import annotations

import pytest

from omni_rlvr.text.prompts import EMOTION_QUESTION, INSTRUCTION, WORDINGS, join


def text(name: str) -> str:
    wording = WORDINGS[name]
    return join(wording.question, wording.separator, wording.instruction)


def test_the_three_of_r1_omni_differ_between_question_and_instruction() -> None:
    assert text("p1_cold_start") == (
        "As an emotional recognition expert; throughout the video, which emotion conveyed by the "
        "characters is the most obvious to you? Output the thinking process in <think> </think> "
        "and final emotion in <answer> </answer> tags."
    )
    assert text("p2_inference") == text("p1_cold_start").replace("? Output", "?  Output")
    assert text("p3_rlvr") == text("p1_cold_start").replace("? Output", "?\nOutput")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "p4_rlvr_dfew",
            "As an emotional recognition expert; throughout the video, which emotion is the most "
            "obvious to you?\nhappy, surprise, neutral, angry, disgust, sad, fear",
        ),
        (
            "p5_sft_obvious",
            f"{EMOTION_QUESTION}\nfear ,angry ,surprise ,happy ,neutral ,sad ,disgust",
        ),
        (
            "p6_evaluation_mafw",
            "As an emotional recognition expert, in the video, when the characters display their "
            "emotions, which predominant feeling is most clearly expressed?\nhappy ,surprise "
            ",neutral ,angry ,disgust ,sad ,fear ,contemptuous, disappointed, helpless, anxious",
        ),
    ],
)
def test_wordings_with_labels(name, wanted) -> None:
    assert text(name) == wanted


def test_names_tell_the_six() -> None:
    assert {name[:2] for name in WORDINGS} == {f"p{i}" for i in range(1, 7)}
    assert WORDINGS["p6_evaluation"].question.endswith("expressed?\n")


def test_an_instruction_is_not_said_twice() -> None:
    assert join(f"Why? {INSTRUCTION}", "\n", INSTRUCTION) == f"Why? {INSTRUCTION}"
    assert join("Why?", "\n", "") == "Why?"
    assert join("", "\n", "Think.") == "Think."
