"""The authors' reward, on all rows that their functions were run on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omni_rlvr.rewards.as_published import PublishedAccuracy, PublishedFormat
from omni_rlvr.types import Example

ROWS = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "parity_A" / "rewards.json").read_text()
)["rows"]


def gold(solution: str) -> str:
    """The label that a recorded solution was made of: its first answer, or all of it."""
    opened = solution.partition("<answer>")
    return (opened[2].partition("</answer>")[0] if opened[1] else solution).strip()


def scores(completion: str, answer: str) -> tuple[float, float]:
    rows = [completion], [Example("1", "?", answer, answer, None)]
    return PublishedAccuracy()(*rows)[0], PublishedFormat()(*rows)[0]


@pytest.mark.parametrize("row", ROWS, ids=[str(i) for i in range(len(ROWS))])
def test_as_recorded(row) -> None:
    assert len(ROWS) == 61
    wanted = row["accuracy"], row["format"]
    assert scores(row["completion"], gold(row["solution"])) == wanted


def test_numbers_count_only_for_a_number() -> None:
    assert scores("The result is 7", "7")[0] == 1
    assert scores("7 or 8", "7")[0] == 0
    assert scores("There are 3 people", "happy")[0] == 0
