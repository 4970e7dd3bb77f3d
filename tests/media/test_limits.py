"""A file that asks for more than a limit is refused before anything is allocated, by name."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import case_picture
import numpy as np
import pytest
import soundfile
from make_clips import Recipe, write

from omni_rlvr.media.clip import probe_clip, read_clip
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.limits import Limits, enforce
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sandbox.reader import ClipReader
from omni_rlvr.types import MediaError

WANTED = ClipRequest(Sampling.count(2), 16_000, want_video=True, want_audio=True)
SILENT = Recipe(sound=None, times_ms=(0, 40, 80))


@pytest.fixture
def within(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts limits in force in this process, but for its address space."""
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    yield lambda **changes: enforce(Limits(**changes))
    enforce(Limits())


def refused(path: Path, said: str, *, as_sound: bool = False) -> None:
    """Both opening and reading name the file and the limit."""
    video, audio = (None, path) if as_sound else (path, None)
    for read in (probe_clip, read_clip):
        with pytest.raises(MediaError) as error:
            read(video, audio, replace(WANTED, want_video=not as_sound))
        assert str(error.value) == f"{path}: {said} allows; convert it, or change the limit"


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (2**31 - 1, "2147483647 Hz, more than dataset.max_sample_rate=384000"),
        (1_000_003, "1000003 Hz, more than dataset.max_sample_rate=384000"),
        (1, "1 Hz, less than dataset.min_sample_rate=1000"),
    ],
)
def test_sample_rates(tmp_path: Path, rate: int, said: str) -> None:
    path = case_picture.wav_of_rate(tmp_path / "s.wav", rate)
    said = f"its sound has a sample rate of {said}"
    refused(path, said, as_sound=True)
    with pytest.raises(MediaError, match=f"{said} allows"):  # the container's way
        read_clip(path, None, replace(WANTED, want_video=False))


def test_a_prime_rate_within_the_limits_is_read(tmp_path: Path) -> None:
    path = case_picture.wav_of_rate(tmp_path / "s.wav", 8009, num_samples=8009)
    assert len(read_clip(None, path, replace(WANTED, want_video=False)).waveform) == 16_000


def test_pixels(tmp_path: Path, within) -> None:
    path = write(tmp_path / "clip.mp4", Recipe())
    for limit in (100, 96 * 64 - 1):  # far beyond, FFmpeg does not decode it either
        within(max_frame_pixels=limit)
        said = f"its picture has 96 x 64 pixels a frame, more than dataset.max_frame_pixels={limit}"
        refused(path, said)
    assert read_clip(path, None, replace(WANTED, want_video=False)).waveform is not None
    within(max_frame_pixels=96 * 64)
    assert read_clip(path, None, WANTED).frames.shape == (2, 64, 96, 3)


def test_the_defaults_admit_4k_and_not_8192_x_8192() -> None:
    least = Limits()
    assert least.problem("max_frame_pixels", 4096 * 2160, "") is None
    assert least.problem("max_frame_pixels", 8192 * 8192, "") is not None


def test_frames_and_seconds(tmp_path: Path, within) -> None:
    source = write(tmp_path / "one.mp4", Recipe(sound=None, times_ms=(0,), width=16, height=16))
    many = case_picture.with_repeated_frame(tmp_path / "many.mp4", source, 250)
    hour = case_picture.with_repeated_frame(tmp_path / "hour.mkv", source, 3600, step=25)
    day = case_picture.with_repeated_frame(tmp_path / "day.mkv", source, 25, step=90_000)
    assert read_clip(hour, None, WANTED).duration_s == pytest.approx(3600, abs=1)
    refused(day, "is 86400.001 s long, more than dataset.max_duration_s=14400")
    within(max_frames=249)
    refused(many, "its picture has 250 frames or more, more than dataset.max_frames=249")
    within(max_frames=250)
    assert read_clip(many, None, WANTED).duration_s == pytest.approx(10, abs=0.05)


def test_a_sound_that_lasts_too_long_is_refused_by_its_header(tmp_path: Path, within) -> None:
    path = tmp_path / "s.flac"
    soundfile.write(path, np.zeros((8000 * 20, 2), np.int16), 8000)
    within(max_duration_s=19)
    refused(path, "its sound is 20 s long, more than dataset.max_duration_s=19", as_sound=True)
    within(max_memory_gb=0.001)  # 8000 * 20 * 2 samples of 4 bytes are 1.28 MB
    refused(
        path, "its sound takes 0.00128 GB, more than dataset.max_memory_gb=0.001", as_sound=True
    )


def test_streams(tmp_path: Path, within) -> None:
    path = write(tmp_path / "clip.mp4", Recipe())
    within(max_streams=1)
    refused(path, "has 2 streams, more than dataset.max_streams=1")


def test_a_file_larger_than_memory_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "endless.mp4").open("wb") as file:
        file.truncate(10**12)  # sparse: no byte of it is on disk
    refused(
        tmp_path / "endless.mp4",
        "has 1000.0 GB, and files are read whole, more than dataset.max_memory_gb=16",
    )


@pytest.mark.parametrize("name", ["zero.mp4", "pipe.mp4", "zero.wav"])
def test_devices_and_pipes_are_not_opened(tmp_path: Path, name: str) -> None:
    if name == "pipe.mp4":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    as_sound = name.endswith("wav")
    video, audio = (None, tmp_path / name) if as_sound else (tmp_path / name, None)
    with pytest.raises(MediaError, match=rf"{name}: is not a regular file"):
        read_clip(video, audio, replace(WANTED, want_video=not as_sound))


@pytest.mark.slow
def test_the_address_space_of_the_reading_process_is_bounded(tmp_path: Path) -> None:
    """Within the others, what is decoded may still not fit: 8 frames of 4K are 199 MB."""
    path = write(tmp_path / "clip.mp4", replace(SILENT, width=3840, height=2160))
    wanted = replace(WANTED, sampling=Sampling.count(8), want_audio=False, backend="av")
    with ClipReader(60, 9, limits=Limits(max_memory_gb=0.25)) as reader:
        with pytest.raises(MediaError, match=r"clip\.mp4: .*memory.*dataset\.max_memory_gb=0\.25"):
            reader.read(path, None, wanted)
        small = write(tmp_path / "small.mp4", SILENT)
        assert reader.read(small, None, wanted).frames.shape == (8, 64, 96, 3)
    with ClipReader(60, 9) as reader:
        assert reader.read(path, None, wanted).frames.shape == (8, 2160, 3840, 3)
