"""JSON lines: whatever stands in a completion comes back as it was written."""

from __future__ import annotations

from pathlib import Path

from omni_rlvr.record import append_jsonl, keep_steps, read_jsonl

ODD = "a\u2028b\u2029c\x85d\x0be\x1cf\r\n\ng"
"""Signs that ``str.splitlines`` takes for the end of a line."""


def test_lines_hold_what_was_written(tmp_path: Path) -> None:
    rows = [{"step": 1, "completion": ODD}, {"step": 2, "completion": "x"}]
    append_jsonl(tmp_path / "a.jsonl", rows)
    assert read_jsonl(tmp_path / "a.jsonl") == rows
    keep_steps(tmp_path / "a.jsonl", 1)
    assert read_jsonl(tmp_path / "a.jsonl") == rows[:1]
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_a_torn_last_line_goes(tmp_path: Path) -> None:
    append_jsonl(tmp_path / "a.jsonl", [{"step": 1}])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"step": 2, "compl')
    keep_steps(tmp_path / "a.jsonl", 5)
    assert read_jsonl(tmp_path / "a.jsonl") == [{"step": 1}]
