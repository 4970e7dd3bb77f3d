"""The questions that R1-Omni and HumanOmni are asked, word for word, by where each was used.

A prompt's text is a question, a separator and an instruction. Which one a model was trained with
matters: the published texts differ in a space, a newline or a list of labels.

Reference: R1-Omni (arXiv 2503.05379), its repository's README, training and evaluation scripts.
"""

from __future__ import annotations

from dataclasses import dataclass

EMOTION_QUESTION = (
    "As an emotional recognition expert; throughout the video, which emotion conveyed by the "
    "characters is the most obvious to you?"
)
"""R1-Omni's question (its README); the data sets ask it unless their config says otherwise."""
INSTRUCTION = (
    "Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."
)
_OBVIOUS = EMOTION_QUESTION.replace(" conveyed by the characters", "")
_PREDOMINANT = (
    "As an emotional recognition expert, in the video, when the characters display their emotions, "
    "which predominant feeling is most clearly expressed?"
)
_DFEW = "happy, surprise, neutral, angry, disgust, sad, fear"
_MAFW = "contemptuous, disappointed, helpless, anxious"


@dataclass(frozen=True)
class Wording:
    """The text of a prompt besides its media."""

    question: str
    """Asked instead of the annotation's question."""
    separator: str
    """Between question and instruction."""
    instruction: str
    """After the question; empty for none."""


WORDINGS = {
    "p1_cold_start": Wording(EMOTION_QUESTION, " ", INSTRUCTION),
    "p2_inference": Wording(EMOTION_QUESTION, "  ", INSTRUCTION),
    "p3_rlvr": Wording(EMOTION_QUESTION, "\n", INSTRUCTION),
    "p4_rlvr_dfew": Wording(f"{_OBVIOUS}\n{_DFEW}", "", ""),
    "p4_rlvr_mafw": Wording(f"{_OBVIOUS}\n{_DFEW}, {_MAFW}", "", ""),
    "p5_sft_obvious": Wording(
        f"{EMOTION_QUESTION}\nfear ,angry ,surprise ,happy ,neutral ,sad ,disgust", "", ""
    ),
    "p5_sft_predominant": Wording(f"{_PREDOMINANT}\nfear ,disgust ,happy ,sad ,surprise", "", ""),
    "p6_evaluation": Wording(f"{_PREDOMINANT}\n", "", ""),
    "p6_evaluation_dfew": Wording(f"{_PREDOMINANT}\n{_DFEW.replace(', ', ' ,')}", "", ""),
    "p6_evaluation_mafw": Wording(f"{_PREDOMINANT}\n{_DFEW.replace(', ', ' ,')} ,{_MAFW}", "", ""),
}
"""Name -> wording: P1 to P6, with the label lists of DFEW and MAFW where one was appended."""


def join(question: str, separator: str, instruction: str) -> str:
    """Put question and instruction together; an instruction that the question holds is not
    repeated.
    """
    if not question or not instruction or instruction in question:
        return question or instruction
    return f"{question}{separator}{instruction}"
