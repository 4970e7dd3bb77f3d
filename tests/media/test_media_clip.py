"""Every container, codec, rate and orientation: the right frame, upright, and the right sound."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from every_case import every_case
from make_clips import AMPLITUDES, NUM_FRAMES, Recipe, level, sine, write

from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.frame_sampling import Sampling, uniform_indices
from omni_rlvr.media.request import ClipRequest

HZ = 16000
MP4 = Recipe()
SIDECAR = Recipe(picture=None, hz=1000.0)
CASES = {
    "h264_aac.mp4": MP4,
    "h264_aac.mov": MP4,
    "mpeg4_mp3.avi": Recipe(picture="mpeg4", sound="libmp3lame", rate=44100),
    "vp9_opus.webm": Recipe(picture="libvpx-vp9", sound="libopus"),
    "vp9_opus.mkv": Recipe(picture="libvpx-vp9", sound="libopus", layout="mono"),
    "hevc_aac.mp4": Recipe(picture="libx265"),
    "odd_97x53.mp4": Recipe(width=97, height=53),
    "odd_97x53_pcm.mov": Recipe(width=97, height=53, sound="pcm_s16le", rate=44100),
    "mono_8k.mp4": Recipe(layout="mono", rate=8000),
    "mono_22k.mp4": Recipe(layout="mono", rate=22050),
    "stereo_44k.mp4": Recipe(rate=44100),
    "surround_48k.mp4": Recipe(layout="5.1"),
    "sound_longer.mp4": Recipe(sound_s=1.7),
    "sound_shorter.mp4": Recipe(sound_s=0.4),
    "silent.mp4": Recipe(sound=None),
    "variable.mp4": Recipe(times_ms=tuple(40 * i + 3 * i * i for i in range(NUM_FRAMES))),
    "variable.webm": Recipe(
        picture="libvpx-vp9",
        sound=None,
        times_ms=tuple(40 * i + 3 * i * i for i in range(NUM_FRAMES)),
    ),
}


def read(video, audio=None, **changes):
    options = ClipRequest(Sampling.count(8), HZ, want_video=True, want_audio=True)
    return read_clip(video, audio, replace(options, **changes))


def red_corner(frame: np.ndarray) -> str:
    """Which quarter is red: tl, tr, bl or br."""
    height, width = frame.shape[:2]
    rows, columns = {"t": height // 4, "b": 3 * height // 4}, {"l": width // 4, "r": 3 * width // 4}
    redness = {
        r + c: int(frame[rows[r], columns[c], 0]) - int(frame[rows[r], columns[c], 1])
        for r in rows
        for c in columns
    }
    return max(redness, key=redness.get)


def check_sound(waveform: np.ndarray, recipe: Recipe) -> None:
    """Length, pitch and loudness."""
    assert waveform.dtype == np.float32
    # a codec may add packets: AAC up to 1024 samples at the file's rate, MP3 in AVI two of 1152
    extra_s = len(waveform) / HZ - recipe.sound_s
    assert -0.001 < extra_s < 2304 / recipe.rate
    middle = waveform[len(waveform) // 4 : 3 * len(waveform) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    bin_hz = HZ / len(middle)
    assert abs(spectrum.argmax() * bin_hz - recipe.hz) <= bin_hz
    loudness = np.sqrt(2) * middle.std()
    assert loudness == pytest.approx(np.mean(AMPLITUDES[recipe.layout]), rel=0.05)


@every_case("backend", ["decord", "av"])
@every_case("name", CASES)
def test_case(tmp_path, name, backend):
    recipe = CASES[name]
    clip = read(write(tmp_path / name, recipe), backend=backend)
    indices = uniform_indices(NUM_FRAMES, 8)
    assert clip.frames.shape == (8, recipe.height, recipe.width, 3)
    assert clip.frames.dtype == np.uint8
    grey = clip.frames[:, -recipe.height // 3, -recipe.width // 3].mean(axis=-1)
    np.testing.assert_allclose(grey, [level(i) for i in indices], atol=3.9)
    assert red_corner(clip.frames[0]) == "tl"
    times_s = np.array(recipe.times_ms)[indices] / 1000
    # times are the file's: the AVI writer puts an empty frame after the first one
    np.testing.assert_allclose(
        clip.frame_times_s, times_s, atol=0.041 if name.endswith("avi") else 0.0015
    )
    assert clip.duration_s == pytest.approx(recipe.times_ms[-1] / 1000 + 0.04, abs=0.15)
    if recipe.sound is None:
        assert clip.waveform is None
    else:
        check_sound(clip.waveform, recipe)


@every_case("name", CASES)
def test_back_ends_agree(tmp_path, name):
    path = write(tmp_path / name, CASES[name])
    ours, theirs = read(path, backend="decord"), read(path, backend="av")
    difference = np.abs(ours.frames.astype(int) - theirs.frames.astype(int))
    assert difference.mean() < 2
    np.testing.assert_array_equal(ours.frame_times_s, theirs.frame_times_s)
    assert ours.duration_s == theirs.duration_s
    if ours.waveform is not None:
        np.testing.assert_allclose(ours.waveform, theirs.waveform, atol=1e-3)


@every_case("backend", ["decord", "av"])
@every_case("ending", ["mp4", "mov", "mkv"])
@every_case(("degrees", "corner"), [(90, "bl"), (180, "br"), (270, "tr")])
def test_phone_video_is_upright(tmp_path, degrees, corner, ending, backend):
    path = write(tmp_path / f"phone.{ending}", replace(MP4, rotation=degrees, sound=None))
    clip = read(path, backend=backend)
    assert clip.frames.shape[1:3] == ((64, 96) if degrees == 180 else (96, 64))
    assert red_corner(clip.frames[3]) == corner


@every_case("ending", ["wav", "flac", "ogg", "mp3"])
def test_sidecar_replaces_the_track(tmp_path, ending):
    video = write(tmp_path / "clip.mp4", MP4)
    audio = tmp_path / f"sound.{ending}"
    soundfile.write(audio, sine(SIDECAR).T, SIDECAR.rate)
    clip = read(video, audio)
    check_sound(clip.waveform, SIDECAR)
    assert clip.frames.shape[0] == 8
    alone = read(None, audio, want_video=False)
    np.testing.assert_array_equal(alone.waveform, clip.waveform)
    assert alone.duration_s == pytest.approx(1.0, abs=0.03)


def test_sidecar_that_only_ffmpeg_knows(tmp_path):
    check_sound(read(None, write(tmp_path / "s.m4a", SIDECAR)).waveform, SIDECAR)


def test_not_a_number_never_gets_out(tmp_path):
    samples = sine(replace(SIDECAR, rate=HZ)).T
    samples[100:200], samples[300] = np.nan, np.inf
    soundfile.write(tmp_path / "s.wav", samples, HZ, subtype="FLOAT")
    waveform = read(None, tmp_path / "s.wav").waveform
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() <= 1


def test_sound_of_no_length_is_none(tmp_path):
    soundfile.write(tmp_path / "s.wav", np.zeros((0, 1)), HZ)
    assert read(None, tmp_path / "s.wav").waveform is None


def test_only_what_is_wanted(tmp_path, monkeypatch):
    video = write(tmp_path / "clip.mp4", MP4)
    assert read(video, want_audio=False).waveform is None
    monkeypatch.setattr("omni_rlvr.media.clip.read_frames", None)  # calling it would raise
    clip = read(video, want_video=False)
    assert clip.frames is None
    assert clip.frame_times_s is None
    assert clip.duration_s == pytest.approx(1.0, abs=0.01)
    check_sound(clip.waveform, MP4)


@pytest.mark.parametrize("backend", ["decord", "av"])
def test_each_file_is_opened_once(tmp_path, backend):
    (tmp_path / "in").mkdir()
    video = write(tmp_path / "in" / "clip.mp4", MP4)
    audio = tmp_path / "in" / "sound.wav"
    soundfile.write(audio, sine(SIDECAR).T, SIDECAR.rate)
    with Opens(tmp_path / "in") as opens:
        read(video, backend=backend)
    assert opens.names == ["clip.mp4"]
    with Opens(tmp_path / "in") as opens:
        read(video, audio, backend=backend)
    assert sorted(opens.names) == ["clip.mp4", "sound.wav"]


class Opens:
    """Counts files opened in a folder, by Python or by C libraries (inotify, event IN_OPEN)."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.names: list[str] = []

    def __enter__(self) -> Opens:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self.fd, str(self.folder).encode(), 0x20) >= 0
        return self

    def __exit__(self, *_) -> None:
        events, header = os.read(self.fd, 65536), struct.Struct("iIII")
        os.close(self.fd)
        while events:
            _, mask, _, length = header.unpack_from(events)
            name = events[header.size : header.size + length].rstrip(b"\0").decode()
            self.names += [name] if mask & 0x20 and name else []
            events = events[header.size + length :]


class BrokenDecord:
    """decord where it opens nothing."""

    DECORDError = OSError

    @staticmethod
    def VideoReader(*_, **__):
        raise OSError("no")


@pytest.mark.parametrize("stand_in", [None, BrokenDecord])
def test_pyav_steps_in(tmp_path, monkeypatch, stand_in):
    path = write(tmp_path / "clip.mp4", MP4)
    expected = read(path, backend="av")
    monkeypatch.setattr("omni_rlvr.media.video.decord", stand_in)
    np.testing.assert_array_equal(read(path, backend="decord").frames, expected.frames)
