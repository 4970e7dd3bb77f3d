"""Scores of questions by hand: unparsed answers are counted apart from wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_rlvr.record import read_json
from omni_rlvr.rewards.choice import Question
from omni_rlvr.tasks.evaluate import (
    Evaluation,
    judge_question,
    questions_line,
    score_questions,
    write_evaluation,
)
from omni_rlvr.types import Example

CHOICE = {"question_kind": "choice", "num_options": "3"}
SEVERAL = {"question_kind": "several", "num_options": "3"}
ROWS = [
    (CHOICE, "A", "<think>x</think><answer>A</answer>"),  # right
    (CHOICE, "A", "B"),  # wrong, bare
    (CHOICE, "A", "<answer>Answer: A</answer>"),  # unparsed
    (CHOICE, "A", "<think>x"),  # unparsed: no answer
    (SEVERAL, "A, B", "<think>x</think><answer>A</answer>"),  # F1 = 2/3
]


def example(cues: dict[str, str], gold: str) -> Example:
    return Example(id="a", question="?", answer=gold, target=gold, video=Path("a.mp4"), cues=cues)


def predictions() -> list[dict]:
    return [judge_question(example(cues, gold), text) for cues, gold, text in ROWS]


def test_a_row_by_hand() -> None:
    assert predictions()[0] == {
        "id": "a", "label": "A", "kind": "choice", "predicted": "A", "score": 1.0, "correct": True,
        "well_formed": True, "completion": ROWS[0][2],
    }  # fmt: skip
    assert [row["score"] for row in predictions()] == [1.0, 0.0, None, None, pytest.approx(2 / 3)]
    assert [row["predicted"] for row in predictions()] == ["A", "B", None, None, "A"]


def test_scores_by_hand() -> None:
    scores = score_questions(predictions(), num_resamples=200)
    assert scores["kinds"] == {
        "choice": {
            "num_clips": 4, "accuracy": 25.0, "score": 25.0, "unparsed": 50.0, "format": 25.0,
        },
        "several": {
            "num_clips": 1, "accuracy": 0.0, "score": 66.67, "unparsed": 0.0, "format": 100.0,
        },
    }  # fmt: skip
    assert (scores["war"], scores["uar"]) == (20.0, 12.5)  # 1 of 5; (1/4 + 0) / 2
    assert (scores["unparsed"], scores["outside"]) == (40.0, 40.0)
    assert scores["score"] == 33.33  # (1 + 2/3) / 5
    assert scores["war_ci"][0] <= 20.0 <= scores["war_ci"][1]
    assert scores["labels"] == ["choice", "several"]


def test_they_are_written_and_told(tmp_path: Path) -> None:
    scores = score_questions(predictions(), num_resamples=10)
    write_evaluation(tmp_path / "test", Evaluation(predictions(), scores))
    assert read_json(tmp_path / "test" / "metrics.json")["unparsed"] == 40.0
    assert sorted(path.name for path in (tmp_path / "test").iterdir()) == [
        "metrics.json", "predictions.jsonl",
    ]  # fmt: skip
    lines = questions_line("test", scores).splitlines()
    assert lines[0] == "test: right 20.0  score 33.3  unparsed 40.0  format 40.0  (5)"
    assert lines[1].startswith("  choice: right 25.0")


def test_the_reward_wants_tags_and_a_kind() -> None:
    rows = [example(cues, gold) for cues, gold, _ in ROWS]
    assert Question()([text for *_, text in ROWS], rows) == [
        1.0, 0.0, 0.0, 0.0, pytest.approx(2 / 3),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="does not say what kind of question"):
        Question()(["<answer>A</answer>"], [example({}, "A")])
