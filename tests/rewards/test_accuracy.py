"""The synonyms of the accuracy term, and that scoring strings needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from every_case import every_case

from omni_rlvr.rewards.accuracy import Accuracy
from omni_rlvr.types import Example, UserError


def score(synonyms: dict[str, str], answer: str, gold: str) -> float:
    example = Example(id="1", question="?", answer=gold, target=gold, video=None)
    text = f"<think>x</think><answer>{answer}</answer>"
    return Accuracy(synonyms=synonyms)([text], [example])[0]


@every_case(
    ("answer", "gold", "wanted"),
    [
        ("happiness", "happy", 1.0),
        ("happy", "happiness", 1.0),  # a gold label in the other spelling
        ("happiness", "happiness", 1.0),
        (" HAPPINESS ", "Happy", 1.0),
        ("joy", "happiness", 1.0),  # both mean happy
        ("fear", "happy", 0.0),
        ("happiness.", "happy", 0.0),
    ],
)
def test_synonyms(answer: str, gold: str, wanted: float) -> None:
    assert score({"Happiness ": "happy", "joy": "happy"}, answer, gold) == wanted


@every_case(
    ("answer", "gold", "wanted"),
    [
        ("sad, happy", "happy, sad", 1.0),  # the same set
        ("Happy;sad", "happy, sad", 1.0),
        ("joy / sad", "happy, sad", 1.0),  # joy means happy
        ("happy, sad", '["happy", "sad"]', 1.0),
        ("['sad', 'happy']", '["happy", "sad"]', 1.0),
        ("happy", "happy, sad", 0.0),  # one of two
        ("happy, sad, fear", "happy, sad", 0.0),
        ("happy, sad", "happy", 0.0),
        ("[happy]", "happy", 0.0),  # one label is compared as it stands
    ],
)
def test_several_gold_labels_are_a_set(answer: str, gold: str, wanted: float) -> None:
    assert score({"joy": "happy"}, answer, gold) == wanted


def test_nothing_is_a_synonym_unless_declared() -> None:
    assert score({}, "happiness", "happy") == 0.0


def test_an_empty_gold_label_cannot_be_earned() -> None:
    assert score({}, "", "") == 0.0


def test_a_synonym_may_map_to_itself() -> None:
    assert score({"happy": "happy", "joy": "happy"}, "joy", "happy") == 1.0


@every_case(
    ("synonyms", "words"),
    [
        (None, ["synonyms", "None", "mapping"]),
        (["happy"], ["synonyms", "mapping"]),
        ({False: "neutral"}, ["synonyms.False", "strings"]),
        ({"no": 1}, ["synonyms.no", "1", "strings"]),
        ({"joy": "happiness", "happiness": "happy"}, ["synonyms.joy", "'happiness'", "'happy'"]),
        ({"joy": "happy", "Joy": "sad"}, ["synonyms.Joy", "'happy'", "'sad'"]),
    ],
)
def test_synonyms_that_are_refused(synonyms: object, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        Accuracy(synonyms=synonyms)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words)


def test_rows_must_agree() -> None:
    with pytest.raises(ValueError, match="zip"):
        Accuracy(synonyms={})(["happy"], [])


def test_terms_do_not_import_torch() -> None:
    code = (
        "import sys, omni_rlvr.rewards.accuracy, omni_rlvr.rewards.format\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
