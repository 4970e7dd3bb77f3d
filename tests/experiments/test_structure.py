"""How the study of structure counts lines and finds differences."""

from __future__ import annotations

import sys
from pathlib import Path

from every_case import every_case

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "structure"))

import count
import same

SOURCE = '''"""Docstring
of two lines."""

import os  # counted


class Config:
    """Docstring."""

    size: int = 1
    """Documents a field."""

    # a comment
    def run(self):
        text = """counted,
        both lines"""
        return (
            text

        )
'''


def test_lines_of_code_are_those_without_words() -> None:
    # import, class, size, def, two of text, return (, text, ): nine
    assert count.code_lines(SOURCE) == 9


def test_the_fullest_folder_is_named(tmp_path: Path) -> None:
    for name in ("a/one.py", "a/two.py", "b/three.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    measures = {name: (value, where) for name, value, where in count.shape(tmp_path)}
    assert measures["most Python files in a folder"] == (2, "a")
    assert measures["code lines"] == (3, "")


@every_case(
    ("one", "other", "expected"),
    [
        ({"loss": 1.0}, {"loss": 1.0 + 5e-7}, []),
        ({"loss": 1.0}, {"loss": 1.0 + 5e-6}, ["loss: 1.0, 1.000005"]),
        ({"loss": 0.0}, {"loss": 1e-10}, []),
        ({"step_time": 1.0, "tokens/s": 2.0, "probe_s": 1.0}, {}, []),
        ({"rewards": 1.0}, {}, ["rewards is only in the old one"]),
        ({"text": "a"}, {"text": "b"}, ["text: 'a', 'b'"]),
        ([{"x": 1}], [{"x": 1}, {"x": 2}], [": 1 rows, 2 rows"]),
    ],
)
def test_differences_are_those_beyond_rounding(one, other, expected: list[str]) -> None:
    assert list(same.differences(one, other)) == expected
