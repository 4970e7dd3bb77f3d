"""The length of a clip by its packets, whatever its headers tell."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_clips import Recipe, write

from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.tasks.serve.clip_length import longest_s, measure_clip
from omni_rlvr.types import MediaError

OPTIONS = ClipRequest(Sampling.count(1), 16_000, want_video=False, want_audio=False)
MINUTE = tuple(range(0, 60_000, 10_000))  # six frames, ten seconds apart


def test_the_longest_stream_counts(tmp_path: Path) -> None:
    short = write(tmp_path / "short.mkv", Recipe(sound="libopus", sound_s=3.0))
    clip = measure_clip(short, None, OPTIONS)
    assert clip.duration_s == pytest.approx(3.0, abs=0.05)  # the picture lasts one second
    assert clip.frames is not None
    assert clip.waveform is not None
    long = write(tmp_path / "long.mp4", Recipe(sound=None, times_ms=MINUTE))
    clip = measure_clip(long, None, OPTIONS)
    assert 50 <= clip.duration_s <= 60
    assert clip.waveform is None


def test_a_sound_alone_has_its_length(tmp_path: Path) -> None:
    path = write(tmp_path / "sound.mkv", Recipe(picture=None, sound="libopus", sound_s=2.0))
    for video, audio in ((path, None), (None, path)):
        clip = measure_clip(video, audio, OPTIONS)
        assert clip.duration_s == pytest.approx(2.0, abs=0.05)
        assert clip.frames is None
        assert clip.waveform is not None


def test_a_header_that_does_not_tell_is_not_needed(tmp_path: Path) -> None:
    """As a browser records it: no duration anywhere in the file."""
    recipe = Recipe(picture=None, sound="libopus", sound_s=2.0)
    data = write(tmp_path / "sound.mkv", recipe).read_bytes()
    place = data.index(b"\x44\x89\x88")  # Matroska's Duration, eight bytes of a float
    unknown = data[:place] + b"\xec\x89" + data[place + 2 :]  # Void, of the same size
    assert longest_s(unknown) == pytest.approx(longest_s(data))
    assert longest_s(b"no clip") == 0


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no clip")
    with pytest.raises(MediaError, match=r"a\.mp4: is not a video"):
        measure_clip(path, None, OPTIONS)
