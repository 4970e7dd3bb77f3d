"""The authors' reward, on all rows that their functions were run on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from every_case import every_case

from omni_rlvr.rewards.r1_omni import PublishedAccuracy, PublishedFormat
from omni_rlvr.types import Example, UserError

ROWS = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "parity_A" / "rewards.json").read_text()
)["rows"]


def scores(completion: str, solution: str) -> tuple[float, float]:
    rows = [completion], [Example("1", "?", solution.strip(), solution, None)]
    return PublishedAccuracy()(*rows)[0], PublishedFormat()(*rows)[0]


@every_case("row", ROWS, ids=[str(i) for i in range(len(ROWS))])
def test_as_recorded(row) -> None:
    assert len(ROWS) == 61
    assert scores(row["completion"], row["solution"]) == (row["accuracy"], row["format"])


def test_numbers_count_only_for_a_number() -> None:
    assert scores("The result is 7", "7")[0] == 1
    assert scores("7 or 8", "7")[0] == 0
    assert scores("There are 3 people", "happy")[0] == 0


@every_case(
    ("completion", "solution", "accuracy"),
    [
        ("<answer>1 000</answer>", "<answer> 1000 </answer>", 0),  # read as 0, the last number
        ("<answer>1 2</answer>", "<answer> 2 </answer>", 1),  # read as 2
        ("<answer>1 2</answer>", "<answer> 1 </answer>", 0),
        ("<answer>12 3</answer>", "<answer> 12 3 </answer>", 1),
        ("happy", "<answer> happy", 0),  # never closed: the whole solution is the label
        ("<answer>happy</answer>", "<answer> happy", 0),
        ("<answer> happy", "<answer> happy", 1),
        ("7", "<answer> 7", 1),  # as mathematics, the tag is passed over
    ],
)
def test_hostile_rows_are_what_math_verify_makes_of_them(
    completion: str, solution: str, accuracy: float
) -> None:
    assert scores(completion, solution)[0] == accuracy


def test_a_bare_label_is_wrapped_as_the_authors_loader_does() -> None:
    term = PublishedAccuracy()
    assert term(["happy"], [Example("1", "?", "happy", "happiness", None)]) == [1.0]


def test_without_math_verify_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(UserError, match=r"^as_published reward, accuracy: .*omni-rlvr\[math\]"):
        PublishedAccuracy()
