"""Files that are shorter than they say, and joined files of which the first alone is read."""

from __future__ import annotations

from pathlib import Path

import case_picture
import case_sound
import pytest

from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.inspection import inspect_clip
from omni_rlvr.types import Clip, MediaError

CODECS = {"avi": "mpeg4", "wmv": "wmv2", "mxf": "mpeg2video", "flv": "libx264", "mp4": "libx264"}


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv", "ts"])
def test_a_clip_whose_times_begin_late_is_whole(suffix: str, tmp_path: Path) -> None:
    wave = case_sound.tone(1.0)
    path = tmp_path / f"late.{suffix}"
    case_sound.clip(path, wave, rate=16_000, picture_at_s=5.0, sound_at_s=5.0)
    assert _read(path).notes == ()
    assert _read(path, inspect_clip).notes == ()


@pytest.mark.parametrize("suffix", ["avi", "wmv"])
def test_missing_bytes_at_the_end_are_counted(suffix: str, tmp_path: Path) -> None:
    whole = _film(tmp_path, suffix)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[:-2000])
    (note,) = _read(path).notes
    assert (note.kind, note.text) == ("short", "is truncated, 2000 bytes are missing at its end")
    with pytest.raises(MediaError, match=r"cut.*is truncated, 2000 bytes are missing.*again"):
        _read(path, inspect_clip)


def test_the_end_that_an_mxf_promises_is_missed(tmp_path: Path) -> None:
    whole, path = _film(tmp_path, "mxf"), tmp_path / "cut.mxf"
    path.write_bytes(whole[: len(whole) // 2])
    (note,) = _read(path).notes
    assert note.kind == "short"
    assert "of the 2.00 s that its header promises" in note.text


@pytest.mark.parametrize("suffix", ["mp4", "flv", "wmv", "mxf"])
def test_films_joined_end_to_end_are_counted_where_the_first_alone_is_read(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(3 * _film(tmp_path, suffix))
    (note,) = _read(path).notes
    assert note.kind == "short"
    assert note.text.startswith("is 3 files joined end to end, and only the first is read")


def test_a_joined_avi_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "joined.avi"
    path.write_bytes(2 * _film(tmp_path, "avi"))
    clip = _read(path)
    assert (clip.notes, round(clip.duration_s, 2)) == ((), 4.0)


def _film(folder: Path, suffix: str) -> bytes:
    return case_picture.film(folder / f"whole.{suffix}", CODECS[suffix]).read_bytes()


def _read(path: Path, function=read_clip) -> Clip:
    return function(path, None, num_frames=2, sample_rate=16_000, want_video=True, want_audio=True)
