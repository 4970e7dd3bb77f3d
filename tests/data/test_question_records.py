"""Question records: what is read of each type, and what is refused by its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from every_case import every_case

from omni_rlvr.data.readers.questions import KIND_OF, QuestionReader
from omni_rlvr.types import UserError

ASK = {"choice": "One letter.", "number": "A number."}
CHOICE = {
    "problem_id": 7,
    "problem": "How does he feel?",
    "data_type": "video",
    "problem_type": "multiple choice",
    "options": ["A. happy", "B. sad"],
    "solution": "<answer>B</answer>",
    "path": "./clips/a.mp4",
}
NUMBER = {
    "problem": "How many people speak?", "problem_type": "regression", "options": [],
    "solution": "<answer>2</answer>", "video": "b.mp4",
}  # fmt: skip
SEVERAL = {
    "problem": "Which of them?", "problem_type": "emer_ov_mc", "options": ["A. x", "B. y", "C. z"],
    "solution": "<answer>A,C</answer>", "video": "b.mp4", "audio": "b.wav",
    "process": "<think>Both are seen.</think>",
}  # fmt: skip
JUDGE = {
    "problem": "Does she laugh?", "problem_type": "judge", "data_type": "audio",
    "solution": "<answer>Yes</answer>", "path": "c.wav",
}  # fmt: skip


def reader(folder: Path, *rows: dict, **changed) -> QuestionReader:
    (folder / "rows.json").write_text(json.dumps(rows))
    arguments = {
        "annotations": "rows.json", "root": str(folder), "ask": ASK, "abs_tolerance": 0.005,
        "rel_tolerance": {"regression": 0.1}, "seed": 0,
    }  # fmt: skip
    return QuestionReader(**{**arguments, **changed})


def test_a_row_of_each_kind(tmp_path: Path) -> None:
    choice, number, several, judge = reader(tmp_path, CHOICE, NUMBER, SEVERAL, JUDGE).read()
    assert choice.question == "How does he feel?\nOptions:\nA. happy\nB. sad\nOne letter."
    assert (choice.answer, choice.target) == ("B", "<answer>B</answer>")
    assert choice.video == tmp_path / "clips" / "a.mp4"
    assert choice.cues == {"question_kind": "choice", "num_options": "2"}
    assert number.question == "How many people speak?\nA number."
    assert number.cues == {
        "question_kind": "number", "abs_tolerance": "0.005", "rel_tolerance": "0.1",
    }  # fmt: skip
    assert several.target == "<think>Both are seen.</think>\n<answer>A,C</answer>"
    assert (several.answer, several.audio) == ("A,C", tmp_path / "b.wav")
    assert (judge.video, judge.audio) == (None, tmp_path / "c.wav")
    assert judge.cues == {"question_kind": "yes_no"}


def test_the_types_of_the_published_sets_are_known() -> None:
    assert {"multiple choice", "numerical", "regression", "OCR", "free-form"} <= {*KIND_OF}


@every_case(
    ("change", "said"),
    [
        ({"problem_type": "ranking"}, "problem_type is 'ranking', not one of multiple choice"),
        ({"problem": " "}, "problem is ' ', not a string with text"),
        ({"solution": "<answer>C</answer>"}, "'<answer>C</answer>' is no answer to .* 2 options"),
        ({"solution": "<answer>B"}, "is no answer to a question of type 'multiple choice'"),
        ({"solution": None}, "solution is None, not a string with text"),
        ({"options": ["A. x"]}, "has 1 options; it needs 2 to 26"),
        ({"options": "A. x"}, "options is 'A. x', not a list of strings"),
        (
            {"data_type": "image"},
            "data_type is 'image'; only rows about video or audio can be read",
        ),
        ({"path": 3}, "path is 3, not the path of a clip"),
        ({"path": None}, "neither video nor audio is there"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        reader(tmp_path, CHOICE, {**CHOICE, **change}).read()
    assert "rows.json[1]" in str(error.value)


def test_a_number_may_be_the_solution(tmp_path: Path) -> None:
    (row,) = reader(tmp_path, {**NUMBER, "solution": 2.5}).read()
    assert row.answer == "2.5"


@pytest.mark.parametrize("key", ["ask", "rel_tolerance"])
def test_a_kind_or_type_that_there_is_not_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match=rf"dataset\.layout\.{key}\.guess: unknown key"):
        reader(tmp_path, CHOICE, **{key: {"guess": 1}})
