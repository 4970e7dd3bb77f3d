"""A clip whose sound is longer than the model's window: every task says what was not heard."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from case_sound import clip, tone

from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.types import NOTE_KINDS

TEXT = "5.00 s of its sound are not used: the model takes 2 s, cut out around the sampled frames"


@pytest.fixture
def long(runner, clips: Path, tmp_path: Path) -> Callable[..., Path]:
    """Runs on two clips, of which the first has five seconds of sound and a voice from 3 s on."""
    rows = json.loads((clips / "train.json").read_text())[:2]
    for row in rows:
        row["video"] = str(clips / row["video"])
    rows[0]["video"] = str(
        clip(tmp_path / "long.mov", tone(5, silent_s=3.0), picture_s=5.0, codec="pcm_s16le")
    )
    (tmp_path / "long.json").write_text(json.dumps(rows))
    lists = [f"dataset.annotations.{split}={tmp_path}/long.json" for split in ("train", "test")]
    return lambda *overrides: runner("dataset.root=/", *lists, *overrides)


def notes(folder: Path) -> list[dict[str, str]]:
    return read_json(folder / "run.json")["clip_notes"]


def check_noted(folder: Path) -> None:
    (note,) = notes(folder)
    assert note["id"].endswith("long.mov")
    assert note["kind"] == "cut_sound"
    assert note["text"] == f"3.00 of the {TEXT}"


def test_training_counts_it_fresh_and_from_the_cache(long, runner, caplog) -> None:
    fresh = long(*runner.sft, "stage.max_steps=2", "stage.batch_size=2")
    check_noted(fresh)
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert sum("of its sound are not used" in text for text in warned) == 1  # not once a step
    cached = long(*runner.sft, "stage.max_steps=1", "stage.batch_size=2")
    check_noted(cached)
    for row in [*read_jsonl(fresh / "metrics.jsonl"), *read_jsonl(cached / "metrics.jsonl")]:
        assert row["media/cut_sound"] == 1.0
        assert {f"media/{kind}" for kind in NOTE_KINDS} <= row.keys()
    other = long(*runner.sft, "stage.max_steps=1", "modality=video")
    assert notes(other) == []  # nothing is heard at all


def test_other_tasks_name_it(long, runner, tmp_path, capsys) -> None:
    check_noted(long(*runner.evaluate))
    check_noted(long("task=cache"))
    check_noted(long("task=attribute", "task.splits=[test]", "task.max_completion_length=4"))
    folder = long("task=check", "task.splits=[test]")
    (note,) = read_json(folder / "check.json")["test"]["notes"]
    assert note["text"] == f"3.00 of the {TEXT}"
    out = " ".join(capsys.readouterr().out.split())
    assert "test: clips with cut_sound: 1 (model= and model.path= say what model hears them)" in out
    shown = f"cut_sound test {note['id']}: {note['text']}"
    assert shown in out


def test_a_late_voice_is_no_longer_silence(runner, tmp_path, capsys) -> None:
    """One second of silence and a voice that starts behind the window are two answers."""
    silent = clip(tmp_path / "silent.mov", tone(5, silent_s=5.0), picture_s=5.0, codec="pcm_s16le")
    late = clip(tmp_path / "late.mov", tone(5, silent_s=3.0), picture_s=5.0, codec="pcm_s16le")
    rows = []
    for path in (silent, late):
        folder = runner("task=predict", f"+video={path}", "task.max_completion_length=4")
        check = notes(folder)
        assert [note["kind"] for note in check] == ["cut_sound"]
        rows += read_jsonl(folder / "predictions.jsonl")
    assert f"note: 3.00 of the {TEXT}" in " ".join(capsys.readouterr().out.split())
    assert rows[0]["probabilities"] != rows[1]["probabilities"]
    assert (
        rows[0]["notes"]
        == rows[1]["notes"]
        == [{"kind": "cut_sound", "text": f"3.00 of the {TEXT}"}]
    )
