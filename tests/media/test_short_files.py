"""Files that are shorter than they say, and joined files of which the first alone is read."""

from __future__ import annotations

from pathlib import Path

import case_picture
import case_sound
import pytest
from every_case import every_case

from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.tasks.dataset.inspection import inspect_clip
from omni_rlvr.types import Clip, MediaError

CODECS = {"avi": "mpeg4", "wmv": "wmv2", "mxf": "mpeg2video", "flv": "libx264", "mp4": "libx264"}


@every_case("suffix", ["mkv", "mp4", "flv", "ts"])
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


@every_case("suffix", ["mp4", "flv", "wmv", "mxf"])
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
    return function(path, None, ClipRequest(Sampling.count(2), 16_000, True, True))


@pytest.mark.parametrize("suffix", ["aac", "mp3"])
def test_a_packet_that_is_cut_in_two_is_left_out_and_counted(suffix: str, tmp_path: Path) -> None:
    whole = _sound(tmp_path, suffix)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    clip = _hear(path)
    assert clip.waveform is not None
    ((_, end_s),) = case_sound.sounding_s(clip.waveform)
    assert end_s == pytest.approx(1.25, abs=0.15)
    (note,) = clip.notes
    told = {
        "aac": ("damaged_sound", "1 of the 20 packets of its sound cannot be decoded"),
        "mp3": ("short", "only 1.12 of the 2.00 s of its sound can be decoded"),
    }
    assert (note.kind, note.text[: len(told[suffix][1])]) == told[suffix]
    with pytest.raises(MediaError, match=rf"cut\.\w+: {told[suffix][1]}"):
        _hear(path, inspect_clip)


def test_a_tag_between_joined_sounds_is_no_reason_to_refuse_them(tmp_path: Path) -> None:
    path = tmp_path / "joined.mp3"
    path.write_bytes(2 * _sound(tmp_path, "mp3"))
    clip = _hear(path)
    assert clip.waveform is not None
    sounding = case_sound.sounding_s(clip.waveform)
    assert sounding == [pytest.approx(s, abs=0.1) for s in ((0.0, 2.0), (2.05, 4.05))]
    assert [note.kind for note in clip.notes] == ["damaged_sound"]


def test_a_sound_with_many_broken_packets_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.mka"
    data = bytearray(case_sound.clip(path, case_sound.tone(2.0), picture_s=None).read_bytes())
    start = data.index(bytes.fromhex("1f43b675"))  # the first cluster
    for at in range(start + 400, len(data) - 200, 37):
        data[at] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"its sound track cannot be decoded \(Invalid data"):
        _hear(path)


def _sound(folder: Path, suffix: str) -> bytes:
    codec = {"aac": "aac", "mp3": "libmp3lame"}[suffix]
    path, wave = folder / f"whole.{suffix}", case_sound.tone(2.0)
    return case_sound.clip(path, wave, codec=codec, picture_s=None).read_bytes()


def _hear(path: Path, function=read_clip) -> Clip:
    return function(None, path, ClipRequest(Sampling.count(1), 16_000, False, True))
