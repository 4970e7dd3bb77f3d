"""The chart by class: where its bars end, its round numbers, and names that are text."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from every_case import every_case

from omni_rlvr.tasks.attribute.page.class_chart import LABEL, RIGHT, WIDTH, class_chart, round_ticks

LEFT, SPAN = LABEL, WIDTH - LABEL - RIGHT


def group(video: float, audio: float, num: int = 4) -> dict:
    def entry(value: float) -> dict:
        return {"mean": value, "ci": [value - 0.1, value + 0.1]}

    return {
        "num_whole": num,
        "phi_video": entry(video),
        "phi_audio": entry(audio),
        "interaction": entry(0.0),
    }


def test_bars_run_from_zero_to_their_means() -> None:
    svg = ET.fromstring(class_chart({"all": group(0.9, -0.9), "by_class": {}}, unit="nats"))
    bars = {r.get("class"): r for r in svg.iter("rect")}
    # ends at -1.0 and 1.0: zero is in the middle
    zero = LEFT + SPAN / 2
    assert float(bars["video"].get("x")) == pytest.approx(zero, abs=0.1)
    assert float(bars["video"].get("width")) == pytest.approx(0.45 * SPAN, abs=0.2)
    assert float(bars["audio"].get("x")) == pytest.approx(zero - 0.45 * SPAN, abs=0.1)
    assert float(bars["interaction"].get("width")) == 0


def test_classes_without_whole_clips_are_left_out_and_names_are_text() -> None:
    hostile = "<b>&\"'"
    by_class = {hostile: group(0.1, 0.1), "none": {"num_clips": 3, "num_whole": 0}}
    svg = ET.fromstring(class_chart({"all": group(0.1, 0.1), "by_class": by_class}, unit="nats"))
    names = [t.text for t in svg.iter("text") if t.get("class") == "name"]
    assert names == ["all clips", hostile]
    assert class_chart({"all": {"num_clips": 1, "num_whole": 0}, "by_class": {}}, unit="nats") == ""


@every_case(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.3, 0.9, [-0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-2.0, 0.0, [-2.0, -1.5, -1.0, -0.5, 0.0]),
        (0.0, 0.0, [0.0, 0.2]),
        (0.0, 0.007, [0.0, 0.002, 0.004, 0.006, 0.008]),
    ],
)
def test_ticks_are_round_and_hold_both_ends(low, high, expected) -> None:
    assert round_ticks(low, high) == pytest.approx(expected)
