"""task=predict on what is no clip, on names that name nothing, and on labels that cannot be."""

from __future__ import annotations

import wave
from pathlib import Path

import case_picture
import pytest
import torch
from test_predict import PREDICT, some

from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.types import MediaError, UserError

__all__ = ["some"]  # a fixture


def test_a_silent_clip_under_audio_is_one_line(runner, some) -> None:
    for policy in ("raise", "skip"):
        with pytest.raises(UserError, match=r"silent\.mp4 has no sound.*modality=video_audio"):
            runner(
                *PREDICT,
                f"+video={some}/silent.mp4",
                "modality=audio",
                f"dataset.on_bad_media={policy}",
            )


@pytest.mark.parametrize("content", [b"", b"this is a text\n" * 100, "no decoder"])
def test_a_file_that_is_no_clip(runner, some, capsys, content: bytes | str) -> None:
    bad = some / "000001.mp4"
    if isinstance(content, str):
        content = case_picture.with_codec(bad.read_bytes())
    bad.write_bytes(content)
    with pytest.raises(MediaError, match="000001") as error:
        runner(*PREDICT, f"+video={some}")
    assert "on_bad_media=skip" in str(error.value)
    folder = runner(*PREDICT, f"+video={some}", "dataset.on_bad_media=skip")
    rows = read_jsonl(folder / "predictions.jsonl")
    (lost,) = (row for row in rows if row["error"])
    assert len(rows) == 3
    assert lost["id"] == str(bad)
    assert str(bad) in lost["error"]
    assert lost["completion"] is lost["probabilities"] is None
    assert "could not be read 1" in capsys.readouterr().out
    assert [c["id"] for c in read_json(folder / "run.json")["skipped_clips"]] == [str(bad)]


def test_a_sound_given_as_a_video_says_what_to_type(runner, tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "voice.wav")
    with pytest.raises(UserError) as error:
        runner(*PREDICT, f"+video={sound}")
    assert "give it as audio (+audio=FILE on the command line" in str(error.value)
    assert f"(from video={sound})" in str(error.value)
    assert "annotation " not in str(error.value).replace("in an annotation", "")
    for advice in ([f"+audio={sound}"], [f"+video={sound}", "modality=audio"]):
        (row,) = read_jsonl(runner(*PREDICT, *advice) / "predictions.jsonl")
        assert (row["error"], row["has_video"], row["has_audio"]) == (None, False, True)


def write_wav(path: Path) -> Path:
    """Half a second of a tone."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"\x00\x10\x00\xf0" * 4_000)
    return path


def test_nothing_but_bad_clips_is_an_error(runner, some) -> None:
    for path in some.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 3 clips could be read; the first: .*000000"):
        runner(*PREDICT, f"+video={some}", "dataset.on_bad_media=skip")
    with pytest.raises(UserError, match=r"^.*000000\.mp4") as error:
        runner(*PREDICT, f"+video={some}/000000.mp4", "dataset.on_bad_media=skip")
    assert "\n" not in str(error.value)


def test_bad_names_end_before_a_model_is_loaded(runner, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for overrides, message in (
        ([], "video must be given"),
        (["+video=nowhere.mp4"], "video=nowhere.mp4: no such file"),
        ([f"+video={tmp_path}/empty"], "no video file is directly in this folder"),
        ([f"+audio='{tmp_path}/*.wav'"], "no file matches"),
    ):
        with pytest.raises(UserError, match=message):
            runner(*PREDICT, f"model.path={tmp_path}", *overrides)


@pytest.mark.parametrize("labels", ["[happy,Happy]", "['']", "['<|im_end|>']"])
def test_labels_that_cannot_be_told_apart_or_said(runner, some, labels: str) -> None:
    with pytest.raises(UserError, match=r"^task\.labels"):
        runner(*PREDICT, f"+video={some}", f"task.labels={labels}")


def test_a_device_that_is_not_there_is_named(runner, some) -> None:
    runner.overrides.remove("trainer.accelerator=cpu")
    absent = "mps" if torch.cuda.is_available() else "cuda"
    for name in (absent, "abacus"):
        with pytest.raises(UserError, match=rf"^trainer\.accelerator={name}: not on this machine"):
            runner(*PREDICT, f"+video={some}", f"trainer.accelerator={name}")
