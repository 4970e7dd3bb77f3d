"""The tables of a study: every number is there, nothing is cut at 80 columns, parts may lack."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from omni_rlvr.models.adapters.trainable import Count
from omni_rlvr.tasks.report.text_tables import (
    display_name,
    summary_markdown,
    summary_table,
    trainable_table,
)


def split(war: float, uar: float, answered: float, lo: float, hi: float) -> dict:
    scores = {"war": war, "uar": uar, "weighted_f1": war, "format": answered, "war_ci": [lo, hi]}
    return scores | {"chosen_war": war, "chosen_war_ci": [lo, hi]}


@pytest.fixture
def summary() -> dict:
    return {
        "models": {
            "base": {
                "test": split(14.1, 14.3, 0.0, 11.0, 17.2),
                "ood": split(12.9, 13.8, 0.5, 9.9, 16.1),
            },
            "cold_start": {
                "test": split(54.3, 52.8, 98.4, 50.0, 58.6),
                "ood": split(41.2, 40.1, 96.5, 36.9, 45.4),
            },
            "rlvr": {
                "test": split(88.25, 87.9, 99.8, 85.1, 91.0),
                "ood": split(70.6, 69.3, 99.4, 66.4, 74.7),
            },
        },
        "oracle": {"test": {"war": 96.8}, "ood": {"war": 95.2}},
        "modality": {
            "video": {"war": 47.3},
            "audio": {"war": 39.1},
            "video_audio": {"war": 88.7},
        },
        "seconds": {"cold_start": 42.2, "rlvr": 7621},
    }


def render(summary: dict) -> str:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(summary_table(summary))
    return console.file.getvalue()


def rows(text: str, start: str) -> list[list[str]]:
    """The words of the lines that start with ``start``, without pipes."""
    lines = [x for x in text.splitlines() if x.strip(" |").startswith(start)]
    return [line.replace("|", " ").split() for line in lines]


def row(text: str, start: str) -> list[str]:
    """The words of the one line that starts with ``start``, without pipes."""
    (line,) = rows(text, start)
    return line


@pytest.mark.parametrize("write", [render, summary_markdown])
def test_rows_hold_the_numbers_in_the_order_of_the_header(summary, write):
    text = write(summary)
    test, ood = ["54.3", "[50.0,", "58.6]"], ["41.2", "[36.9,", "45.4]"]
    assert rows(text, "cold start") == [
        ["cold", "start", *test, *test, "52.8", "54.3", "98.4"],
        ["cold", "start", *ood, *ood, "40.1", "41.2", "96.5"],
    ]
    nothing = ["-"] * 4
    assert rows(text, "oracle") == [
        ["oracle", "*", "96.8", *nothing],
        ["oracle", "*", "95.2", *nothing],
    ]
    assert row(text, "video + audio") == ["video", "+", "audio", "88.7"]
    assert "* given the true cue values" in text


@pytest.mark.parametrize("write", [render, summary_markdown])
def test_models_keep_their_order_and_the_oracle_comes_last(summary, write):
    text = write(summary)
    names = ["base", "cold start", "RLVR", "oracle", "video", "audio"]
    places = [
        text.index(f"\n| {n} |" if write is summary_markdown else f"\n {n} ") for n in names[:3]
    ]
    assert places == sorted(places)
    assert places[-1] < text.index("oracle *") < text.index("modality")


@pytest.mark.parametrize("write", [render, summary_markdown])
def test_time_is_written_for_people(summary, write):
    # 42.2 s rounds to 42 s; 7621 s = 2 h + 421 s = 2 h 07 min (and 1 s, dropped).
    assert "time: cold start 42 s, RLVR 2 h 07 min" in write(summary)
    summary["seconds"] = {"rlvr": 185}  # 3 * 60 + 5
    assert "time: RLVR 3 min 05 s" in write(summary)


def test_widest_numbers_fit_80_columns(summary):
    full = split(100.0, 100.0, 100.0, 100.0, 100.0)
    summary["models"] = {"sft_labels": {"test": full, "ood": full}}
    points = {"difference": -100.0, "low": -100.0, "high": +100.0}
    summary["gain"] = {"from": "cold_start", "to": "sft_labels", "parts": {}}
    summary["differences"] = {"cold_start": {"test": {"war": points, "chosen_war": points}}}
    text = render(summary)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    full_row = ["SFT", "labels", *["100.0", "[100.0,", "100.0]"] * 2, *["100.0"] * 3]
    assert full_row in rows(text, "SFT labels")
    assert row(text, "cold start, test")[3:] == ["-100.0", "[-100.0,", "+100.0]"] * 2


def test_header_names_split_and_interval(summary):
    lines = summary_markdown(summary).splitlines()
    chosen = "WAR, chosen from the list [95%]"
    header = f"| WAR [95%] | {chosen} | UAR | weighted F1 | format |"
    assert lines[0] == f"| on test {header}"
    assert f"| on OOD {header}" in lines
    assert "WAR [95%]" in render(summary)


@pytest.mark.parametrize("write", [render, summary_markdown])
def test_absent_parts_leave_no_trace(summary, write):
    bare = {"models": {"rlvr": {"test": summary["models"]["rlvr"]["test"]}}}
    text = write(bare)
    for word in ("oracle", "modality", "time:", "*", "minus", "may differ by chance"):
        assert word not in text
    for name in (
        "chosen_war",
        "chosen_war_ci",
        "weighted_f1",
    ):  # of an earlier version, and of questions
        del bare["models"]["rlvr"]["test"][name]
    assert row(write(bare), "RLVR")[-3:] == ["91.0]", "87.9", "99.8"]


def test_nan_is_shown_as_absent(summary):
    summary["models"]["base"]["test"]["uar"] = float("nan")
    text = summary_markdown(summary)
    assert "nan" not in text
    assert [words[7] for words in rows(text, "base")] == ["-", "13.8"]


def test_markdown_tables_are_well_formed(summary):
    first, second, third = summary_markdown(summary).split("\n\n")[:3]
    for block, columns in ((first, 6), (second, 6), (third, 2)):
        lines = block.splitlines()
        assert {line.count("|") for line in lines} == {columns + 1}
        assert set(lines[1]) <= set("| :-")
    assert summary_markdown(summary).endswith("min\n")


def test_display_names():
    assert display_name("rlvr") == "RLVR"
    assert display_name("some_new_run") == "some new run"


def test_what_trains_adds_up() -> None:
    counts = [Count("vision_tower", 1_500, 0), Count("language_model", 2_000, 2_000)]
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(trainable_table(counts))
    text = console.file.getvalue()
    assert row(text, "vision_tower") == ["vision_tower", "1,500", "0"]
    assert row(text, "language_model") == ["language_model", "2,000", "2,000"]
    assert row(text, "all") == ["all", "3,500", "2,000", "(57.14%)"]  # 2,000 / 3,500
