"""Progress bars: whole at any width, clocks that count, few lines where there is no terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from omni_rlvr.text import progress
from omni_rlvr.text.progress import Bar, clock

NUMBERS = ("loss -1.23e-05", "reward 1.23", "tokens/s 12346")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock to a number of seconds from the start."""
    time = Clock()
    monkeypatch.setattr(progress, "time", time)

    def set_to(seconds: float) -> None:
        time.now = 100.0 + seconds

    return set_to


def drawn(bar: Bar, width: int, **options) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO(), **options)
    console.print(bar, end="")
    return console.export_text().splitlines()


def test_a_bar_of_training_is_whole_in_80_columns(at) -> None:
    bar = Bar("r1_omni/as_published/cold_start", 10_000, 142)
    for step, seconds in ((143, 60), (144, 3720), (145, 7380)):  # 3660 s a step
        at(seconds)
        bar.advance(step, NUMBERS)
    lines = drawn(bar, 80)
    assert [len(line) <= 80 for line in lines] == [True] * len(lines)
    words = "  ".join(lines).split()
    assert [w for w in words if set(w) - set("━╸╺")] == [
        *("r1_omni/as_published/cold_start", "145/10000", "elapsed", "2:03:00"),
        *("remaining", "10019:15:00"),  # 9855 steps of 1:01:00
        *["loss", "-1.23e-05", "reward", "1.23", "tokens/s", "12346"],
    ]


@pytest.mark.parametrize(("width", "num_lines"), [(140, 1), (80, 2), (40, 4), (20, 6)])
def test_nothing_is_cut_at_any_width(width: int, num_lines: int, at) -> None:
    bar = Bar("rlvr", 150)
    for step, seconds in ((10, 10), (20, 20)):
        at(seconds)
        bar.advance(step, NUMBERS)
    lines = drawn(bar, width)
    assert len(lines) == num_lines
    assert ("━" in "".join(lines)) == (width >= 80)  # the bar itself gives way to numbers
    text = " ".join(" ".join(lines).split())
    for piece in ("rlvr", "20/150", "elapsed 0:20", "remaining 2:10", *NUMBERS):
        assert piece in text


def test_the_remaining_time_is_estimated_from_the_last_steps(at) -> None:
    bar = Bar("train", 200)
    assert "remaining ?" in drawn(bar, 80)[0]
    at(100)
    bar.advance(1)  # a first step of 100 s says nothing of the others
    assert "remaining ?" in drawn(bar, 80)[0]
    at(102)
    bar.advance(2)
    assert "elapsed 1:42  remaining 6:36" in drawn(bar, 80)[0]  # 198 steps of 2 s
    at(112)
    assert "elapsed 1:52  remaining 6:26" in drawn(bar, 80)[0]  # it counts down meanwhile
    for step in range(3, 103):
        at(112 + step)
        bar.advance(step)
    assert "remaining 1:38" in drawn(bar, 80)[0]  # 98 steps of 1 s
    bar.advance(200)
    assert "remaining" not in "".join(drawn(bar, 80))


def test_results_that_come_in_bursts(at) -> None:
    bar = Bar("making clips", 160)
    for burst, seconds in enumerate((10, 20), start=1):
        for i in range(16):
            at(seconds + i / 1000)
            bar.advance(16 * burst - 15 + i)
    assert "remaining 1:20" in drawn(bar, 80)[0]  # 128 at 16 in 10 s


def test_a_log_file_gets_few_lines(monkeypatch: pytest.MonkeyPatch, at) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    bar = Bar("train", 1000)
    for step in range(1, 1001):
        at(60 * step)
        bar.advance(step, ["loss 0.5"])
    bar.stop()
    lines = file.getvalue().splitlines()
    assert lines[0] == "train  50/1000  elapsed 50:00  remaining 15:50:00  loss 0.5"
    assert lines[-1] == "train  1000/1000  elapsed 16:40:00  loss 0.5"
    assert len(lines) == 20


def test_quick_work_gets_one_line_in_a_log_file(monkeypatch: pytest.MonkeyPatch, at) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    bar = Bar("train", 1000)
    for step in range(1, 1001):
        at(step / 100)
        bar.advance(step)
    bar.stop()
    assert file.getvalue() == "train  1000/1000  elapsed 0:10\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (220, "3:40"), (3599.6, "1:00:00"), (360_000, "100:00:00")]
)
def test_clocks(seconds: float, text: str) -> None:
    assert clock(seconds) == text
