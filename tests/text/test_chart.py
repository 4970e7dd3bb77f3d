"""The chart of block characters, drawn by hand."""

from __future__ import annotations

from omni_rlvr.text.chart import chart, charts


def test_a_curve_of_five_values() -> None:
    """40 eighths from the least to the most: 0 -> 1 (never nothing), 1 -> 10, 2 -> 20, 4 -> 40."""
    assert chart("reward", [0.0, 1.0, 2.0, 4.0], 60) == [
        line.ljust(60)
        for line in (
            "reward: 0 at first, 4 at last",
            "        4 ┤   █",
            "          ┤   █",
            "          ┤  ▄█",
            "          ┤ ▂██",
            "        0 ┤▁███",
        )
    ]


def test_a_long_curve_is_averaged_into_the_width() -> None:
    title, *lines = chart("x", [*[1.0] * 50, *[3.0] * 50], 21)  # ten columns
    assert title.rstrip() == "x: 1 at first, 3 at last"[:21]
    assert [line[11:] for line in lines] == [f"{' ' * 5}█████"] * 4 + ["▁▁▁▁▁█████"]


def test_curves_without_a_shape() -> None:
    assert chart("x", [1.0], 80) == []
    assert chart("x", [float("nan"), 1.0], 80) == []
    assert chart("x", [2.0, 2.0], 80)[-1].rstrip() == "        2 ┤▁▁"


def test_two_charts_stand_side_by_side() -> None:
    title, *lines = charts([("reward", [0.0, 1.0]), ("accuracy", [1.0, 0.0])], 100)
    assert title.index("accuracy") == 48 + 4
    assert len(lines) == 5
    assert charts([("reward", [0.0])], 100) == charts([], 100) == []
