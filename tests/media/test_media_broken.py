"""Files that are broken, cut short, of no length or no media at all: the error names the file."""

from __future__ import annotations

import os
from dataclasses import replace

import case_foreign
import case_picture
import pytest
from every_case import every_case
from make_clips import Recipe, write

from omni_rlvr.media.clip import probe_clip, read_clip
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.tasks.attribute.page.playable import playable
from omni_rlvr.tasks.dataset.inspection import inspect_clip
from omni_rlvr.tasks.serve.clip_length import measure_clip
from omni_rlvr.types import MediaError

MP4 = Recipe()
SIDECAR = Recipe(picture=None, hz=1000.0)


def read(video, audio=None, *, backend="decord", want_video=True):
    request = ClipRequest(Sampling.count(8), 16_000, want_video, want_audio=True, backend=backend)
    return read_clip(video, audio, request)


def broken_files(folder):
    """Path, and what the message must say."""
    good = write(folder / "good.mp4", MP4).read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut.mp4").write_bytes(good[: len(good) // 2])
    (folder / "text.mp4").write_text("this is no video\n" * 200)
    (folder / "playlist.mp4").write_text(
        f"#EXTM3U\n#EXTINF:1,\n{folder}/good.mp4\n#EXT-X-ENDLIST\n"
    )
    os.mkfifo(folder / "pipe.mp4")
    write(folder / "only_sound.m4a", SIDECAR)
    for codec in (b"xyzw", b"vvc1"):
        (folder / f"{codec.decode()}.mp4").write_bytes(case_picture.with_codec(good, new=codec))
    (folder / "no_streams.mp4").write_bytes(case_picture.without_streams(good))
    return {
        "missing.mp4": "no such file",
        ".": "is a directory",
        "pipe.mp4": "not a regular file",
        "empty.mp4": r"empty \(0 bytes\)",
        "cut.mp4": "truncated",
        "text.mp4": "not a video or sound file",
        "playlist.mp4": "not a video or sound file|no picture|zero frames",
        "only_sound.m4a": "no picture stream .only sound",
        "xyzw.mp4": r"picture cannot be decoded \(there is no decoder for its codec\)",
        "vvc1.mp4": "picture cannot be decoded",
        "no_streams.mp4": "no picture stream .no picture and no sound",
    }


@pytest.mark.parametrize("backend", ["decord", "av"])
def test_errors_name_the_file(tmp_path, backend):
    for name, message in broken_files(tmp_path).items():
        with pytest.raises(MediaError, match=message) as caught:
            read(tmp_path / name, backend=backend)
        assert str(tmp_path / name) in str(caught.value)


@every_case("name", case_foreign.CASES)
@every_case("ending", ["mp4", "wav"])
def test_what_is_no_media_is_named_for_what_it_is(tmp_path, ending, name):
    content, called = case_foreign.CASES[name]
    path = tmp_path / f"clip.{ending}"
    path.write_bytes(content)
    as_sound = ending == "wav"
    video, audio = (None, path) if as_sound else (path, None)
    wanted = ClipRequest(Sampling.count(1), 16_000, want_video=not as_sound, want_audio=True)
    for reader in (read_clip, probe_clip, inspect_clip, measure_clip):
        with pytest.raises(MediaError) as caught:
            reader(video, audio, wanted)
        assert str(caught.value).startswith(f"{path}: is not a video or sound file but {called}")


def test_a_film_that_begins_like_a_picture_is_read(tmp_path):
    """Motion JPEG is pictures in a row."""
    path = tmp_path / "clip.mjpeg"
    path.write_bytes(case_foreign.picture("jpeg") * 5)
    assert read(path).frames.shape == (8, 64, 64, 3)


@pytest.mark.parametrize("name", ["clip.mp4.part", "clip.mp4", "clip.mp4.crdownload"])
def test_a_download_that_goes_on_is_said(tmp_path, name):
    good = write(tmp_path / "good.mp4", MP4).read_bytes()
    (tmp_path / name).write_bytes(good[: len(good) // 2])
    (tmp_path / "clip.mp4.aria2").write_bytes(b"\x01")
    said = "clip.mp4.aria2" if name == "clip.mp4" else name
    with pytest.raises(MediaError, match="truncated") as caught:
        read(tmp_path / name)
    assert str(caught.value).endswith(f"; its download is not finished: there is {said}")


def test_what_has_no_decoder_does_not_matter_where_it_is_not_wanted(tmp_path):
    good = write(tmp_path / "good.mp4", MP4).read_bytes()
    (tmp_path / "v.mp4").write_bytes(case_picture.with_codec(good))
    assert read(tmp_path / "v.mp4", want_video=False).waveform is not None
    sound = case_picture.with_codec(good, old=b"mp4a").replace(b"esds", b"free")
    (tmp_path / "a.mp4").write_bytes(sound)
    with pytest.raises(
        MediaError, match=r"a\.mp4: its sound track cannot be decoded \(there is no"
    ):
        read(tmp_path / "a.mp4")
    wanted = ClipRequest(Sampling.count(1), 16_000, want_video=True, want_audio=False)
    assert probe_clip(tmp_path / "a.mp4", None, wanted).frames.shape == (1, 64, 96, 3)
    with pytest.raises(MediaError, match=r"a\.mp4: its sound track cannot be decoded"):
        probe_clip(tmp_path / "a.mp4", None, replace(wanted, want_audio=True))
    assert playable(tmp_path / "a.mp4", None, None, sample_rate=16_000).data != sound


def test_a_title_in_another_encoding_is_no_fault(tmp_path):
    path = write(tmp_path / "clip.mkv", MP4)
    path.write_bytes(path.read_bytes().replace(b"Lavf", "ü".encode("latin-1") + b"avf"))
    assert read(path).frames.shape[0] == 8


def test_zero_frames(tmp_path):
    path = write(tmp_path / "none.mkv", replace(MP4, times_ms=()))
    with pytest.raises(MediaError, match=r"none\.mkv.*(zero frames|no picture)"):
        read(path)


@every_case("backend", ["decord", "av"])
@every_case(("sound", "sound_s"), [("aac", 0.0), ("aac", 1.0), (None, 0.0)])
@every_case("ending", ["mp4", "mkv"])
def test_a_clip_of_no_length(tmp_path, ending, sound, sound_s, backend):
    """A container with its streams and no frame in them."""
    recipe = replace(MP4, times_ms=(), sound=sound, sound_s=sound_s)
    path = write(tmp_path / f"none.{ending}", recipe)
    with pytest.raises(MediaError) as caught:
        read(path, backend=backend)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


def test_sound_of_no_length_in_a_container_is_none(tmp_path):
    path = write(tmp_path / "none.mp4", replace(MP4, sound_s=0.0))
    assert read(path, want_video=False).waveform is None
    assert read(path).frames.shape[0] == 8


def test_cut_after_the_index(tmp_path):
    """An mp4 with its index first: FFmpeg opens what is left of it, we do not."""
    good = write(tmp_path / "good.mp4", MP4).read_bytes()
    start = good.index(b"moov") - 4
    first = good[: good.index(b"ftyp") - 4 + int.from_bytes(good[:4], "big")]
    moved = first + good[start:] + good[len(first) : start]
    (tmp_path / "cut.mp4").write_bytes(moved[:-3000])
    with pytest.raises(MediaError, match=r"cut\.mp4: is truncated, 3000 bytes are missing"):
        read(tmp_path / "cut.mp4")


def test_a_broken_sidecar_is_named(tmp_path):
    video = write(tmp_path / "clip.mp4", MP4)
    (tmp_path / "s.wav").write_text("no sound\n" * 99)
    with pytest.raises(MediaError, match=r"s\.wav: is not a video or sound file"):
        read(video, tmp_path / "s.wav")
    with pytest.raises(MediaError, match=r"mute\.mp4: was named as a sound file"):
        read(None, write(tmp_path / "mute.mp4", replace(MP4, sound=None)), want_video=False)
