"""Cue coverage against completions that try to earn it without sense, and what does fool it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from every_case import every_case

from omni_rlvr.rewards.cues import CueCoverage
from omni_rlvr.types import UserError

CONF = Path(__file__).parents[2] / "conf" / "reward" / "cue_coverage.yaml"
OPTIONS = yaml.safe_load(CONF.read_text())["terms"]["cue_coverage"]
LEXICON = OPTIONS["lexicon"]
ANSWER = "<answer>happy</answer>"

THOUGHTS = [
    # both are named, in sentences
    ("She has a wide smile on her face. Her voice is bright and quick.", 1),
    ("her SMILE is wide and bright, and the TONE of it all is warm", 1),
    ("In the video he frowns at the table\nand in the audio he shouts at someone", 1),
    ("Tears run down over both cheeks; she is sobbing to herself.", 1),
    ("The man's raised eyebrows show surprise! What does his tone of voice tell us?", 1),
    # one of them, or none
    ("She has a wide smile on her face.", 0),
    ("Her voice is bright and quick today.", 0),
    ("The person seems to feel happy today.", 0),
    ("", 0),
    # cue words without a sentence around them
    ("face voice", 0),
    ("smile, tone", 0),
    ("face face face voice voice voice", 0),
    ("face. voice. smile. tone. pitch. eyes.", 0),
    ("Face: smile. Voice: loud.", 0),
    ("visual: face smile eyes; vocal: voice tone pitch", 0),
    (" ".join(LEXICON["visual"] + LEXICON["vocal"]), 0),
    (", ".join(LEXICON["visual"]) + ". " + ", ".join(LEXICON["vocal"]), 0),
    ("the the the face the the the voice", 0),  # repeated words count once
    ("a a a a face a a a a. b b b b voice b b b b.", 0),
    ("- face - - - - -\n- voice - - - - -", 0),
    ("She has a wide smile on her face. Voice.", 0),
    # not whole words
    ("The surface of it is invoiced to the customer.", 0),
    ("The prefaced and intoned text is smileless here.", 0),
    ("Her f a c e is so wide, her v o i c e is so low.", 0),
    ("她的脸上带着微笑。她的声音很轻快。", 0),  # the lexicon is English
    ("Ее лицо улыбается, а голос звучит очень радостно сегодня.", 0),
    # what fools it, as its docstring says
    ("I can see no face in this clip. I can hear no voice in it either.", 1),
    ("A purple face sits on the moon. A square voice eats seven trees.", 1),
]


def score(text: str, **changes) -> float:
    return CueCoverage(LEXICON, **{"min_other_words": OPTIONS["min_other_words"]} | changes)(
        [text]
    )[0]


@every_case(("think", "wanted"), THOUGHTS, ids=[text[:50] for text, _ in THOUGHTS])
def test_scores(think: str, wanted: float) -> None:
    assert score(f"<think>{think}</think>{ANSWER}") == wanted


GOOD = THOUGHTS[0][0]


@every_case(
    "text",
    [
        GOOD,
        f"<think>x</think>{ANSWER} {GOOD}",
        f"<think>x</think><answer>{GOOD}</answer>",
        f"<think>{GOOD}",
        f"{GOOD}</think>{ANSWER}",
        f"<think>{GOOD}</think><think>{GOOD}</think>{ANSWER}",
        f"<think><think>{GOOD}</think></think>{ANSWER}",
        f"<THINK>{GOOD}</THINK>{ANSWER}",
    ],
)
def test_only_one_think_block_counts(text: str) -> None:
    assert score(text) == 0


def test_ten_thousand_characters_take_no_time() -> None:
    assert score(f"<think>{'face voice ' * 1000}</think>{ANSWER}") == 0
    assert score(f"<think>{'a' * 10_000}</think>{ANSWER}") == 0


def test_options_change_the_score() -> None:
    listed = f"<think>face voice</think>{ANSWER}"
    assert score(listed, min_other_words=0) == 1
    term = CueCoverage({"visual": ["raised eyebrows"], "vocal": ["hums"]}, min_other_words=2)
    text = "<think>He has RAISED\teyebrows today. Then he hums along.</think>"
    assert term([text, text.replace("eyebrows", "arms")]) == [1, 0]
    third = CueCoverage({**LEXICON, "touch": ["warm"]}, min_other_words=3)
    assert third([f"<think>{GOOD}</think>"]) == [0]


@every_case(
    ("lexicon", "min_other_words", "words"),
    [
        ({}, 3, "lexicon"),
        (["face"], 3, "lexicon"),
        ({"visual": []}, 3, "lexicon.visual"),
        ({"visual": "face"}, 3, "lexicon.visual"),
        ({"visual": [" "]}, 3, "lexicon.visual"),
        ({"visual": [True]}, 3, "lexicon.visual"),
        ({"visual": ["face"]}, -1, "min_other_words"),
    ],
)
def test_what_is_refused(lexicon, min_other_words, words) -> None:
    with pytest.raises(UserError, match=words):
        CueCoverage(lexicon, min_other_words=min_other_words)
