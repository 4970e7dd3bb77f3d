"""Time stamps of sound and picture are one axis, in what is read, cut and played."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from case_sound import HZ, clip, sound_file, sounding_s, tone
from every_case import every_case

from omni_rlvr.data.cutting import Cut
from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.tasks.attribute.page.playable import playable
from omni_rlvr.tasks.dataset.inspection import hear_clip, inspect_clip
from omni_rlvr.tasks.dataset.split_screen import cut_clips
from omni_rlvr.tasks.serve.clip_length import measure_clip
from omni_rlvr.types import MediaError

WANTED = ClipRequest(Sampling.count(4), HZ, want_video=True, want_audio=True)
KINDS = ("mp4", "mov", "mkv", "ts", "flv")
START_S = {"ts": 0.064, "flv": 0.064}
"""Where a container keeps the 64 ms that AAC puts before a sound, both begin so much later."""


def seen(path: Path, **changes):
    """Where sound is, when the sampled frames are shown, the notes, and the greys."""
    found = read_clip(path, None, replace(WANTED, **changes))
    return sounding_s(found.waveform), found.frame_times_s, found.notes, found.frames


@every_case("kind", KINDS)
def test_sound_that_starts_later_than_the_picture(tmp_path, kind) -> None:
    path = clip(tmp_path / f"a.{kind}", tone(1.0), sound_at_s=1.0)
    sound, times_s, notes, _ = seen(path)
    assert sound == [(pytest.approx(1.0, abs=0.011), pytest.approx(2.0, abs=0.011))]
    np.testing.assert_allclose(times_s, [0.1, 0.3, 0.6, 0.8], atol=0.002)
    assert notes == ()
    for backend in ("decord", "av"):
        frames = read_clip(path, None, replace(WANTED, backend=backend)).frames
        np.testing.assert_allclose(frames[:, 8, 8, 0], [28, 44, 68, 84], atol=3)


@every_case("kind", KINDS)
def test_a_picture_that_starts_later_than_the_sound(tmp_path, kind) -> None:
    sound, times_s, _, frames = seen(clip(tmp_path / f"a.{kind}", tone(1.0), picture_at_s=0.5))
    start_s = START_S.get(kind, 0.0)
    assert sound == [(pytest.approx(start_s, abs=0.011), pytest.approx(1 + start_s, abs=0.011))]
    np.testing.assert_allclose(times_s, np.array([0.6, 0.8, 1.1, 1.3]) + start_s, atol=0.002)
    np.testing.assert_allclose(frames[:, 8, 8, 0], [28, 44, 68, 84], atol=3)


@every_case("kind", KINDS)
def test_missing_packets_are_silence_and_counted(tmp_path, kind) -> None:
    """Packets of 64 ms between 0.3 and 0.6 s are lost: 0.32 to 0.64 s."""
    path = clip(tmp_path / f"a.{kind}", tone(1.0), missing_s=[(0.3, 0.6)])
    start_s = START_S.get(kind, 0.0)
    sound, _, (note,), _ = seen(path)
    (_, gap_s), (back_s, end_s) = sound
    assert (gap_s, back_s, end_s) == pytest.approx(
        (0.32 + start_s, 0.64 + start_s, 1 + start_s), abs=0.011
    )
    assert note.kind == "sound_gaps"
    assert note.text.startswith("0.32 s of its sound are missing, in a gap at 0.3")
    for probe in (hear_clip, inspect_clip):
        assert probe(path, None, WANTED).notes == (note,)


def test_two_gaps_are_counted_together(tmp_path) -> None:
    path = clip(tmp_path / "a.mkv", tone(1.0), missing_s=[(0.1, 0.15), (0.6, 0.65)])
    (note,) = seen(path)[2]
    assert note.text == (
        "0.13 s of its sound are missing, in 2 places, the first at 0.13 s; "
        "the gaps are filled with silence"
    )


def test_sound_alone_begins_where_it_begins(tmp_path) -> None:
    path = clip(tmp_path / "a.mkv", tone(1.0), picture_s=None, sound_at_s=3.0)
    assert seen(path, want_video=False)[0] == [(0.0, pytest.approx(1.0, abs=0.03))]


def test_a_gap_of_hours_is_refused(tmp_path) -> None:
    path = clip(tmp_path / "a.mkv", tone(0.5), sound_at_s=4000.0)
    with pytest.raises(MediaError, match=r"a\.mkv: its sound .*leave 4000 s without sound"):
        seen(path)


def test_recordings_joined_end_to_end_follow_each_other(tmp_path) -> None:
    """Two transport streams, one behind the other: the time stamps start anew."""
    one = clip(tmp_path / "one.ts", tone(0.9)).read_bytes()
    two = clip(tmp_path / "two.ts", tone(1.0, rate=48_000), rate=48_000).read_bytes()
    path = tmp_path / "both.ts"
    path.write_bytes(one + two)
    sound, times_s, notes, frames = seen(path, sampling=Sampling.count(20))
    assert sum(end - start for start, end in sound) == pytest.approx(1.9, abs=0.05)
    assert sound[-1][1] == pytest.approx(2.08, abs=0.03)
    assert np.diff(times_s) == pytest.approx([0.1] * 19, abs=0.03)
    assert times_s[-1] == pytest.approx(2.01, abs=0.03)
    greys = frames[:, 8, 8, 0].astype(int)
    np.testing.assert_allclose(greys, [20 + 8 * (i % 10) for i in range(20)], atol=4)
    assert notes == ()


def test_joined_pictures_without_sound_follow_each_other(tmp_path) -> None:
    parts = [clip(tmp_path / f"{i}.ts", None).read_bytes() for i in range(3)]
    path = tmp_path / "all.ts"
    path.write_bytes(b"".join(parts))
    found = read_clip(path, None, replace(WANTED, sampling=Sampling.count(30)))
    np.testing.assert_allclose(np.diff(found.frame_times_s), 0.1, atol=0.002)
    greys = found.frames[:, 8, 8, 0].astype(int)
    np.testing.assert_allclose(greys, [20 + 8 * (i % 10) for i in range(30)], atol=4)
    assert found.duration_s == pytest.approx(3.0, abs=0.01)


def test_what_is_played_is_on_the_axis(tmp_path) -> None:
    path = clip(tmp_path / "a.mkv", tone(1.0), sound_at_s=1.0)
    waveform = read_clip(path, None, WANTED).waveform
    out = tmp_path / "out.mp4"
    out.write_bytes(playable(path, None, waveform, sample_rate=HZ).data)
    sound, times_s, _, _ = seen(out)
    assert sound == [(pytest.approx(1.0, abs=0.03), pytest.approx(2.0, abs=0.03))]
    np.testing.assert_allclose(times_s, [0.1, 0.3, 0.6, 0.8], atol=0.002)


def test_length_reaches_from_the_first_stream_to_the_last(tmp_path) -> None:
    path = clip(tmp_path / "a.mkv", tone(1.0), sound_at_s=3.0)
    assert measure_clip(path, None, WANTED).duration_s == pytest.approx(4.0, abs=0.1)


def test_cuts_are_at_times_of_the_file(tmp_path) -> None:
    """The picture of a recording begins 1 s after its sound: at 1.5 s frame 5 is seen."""
    source = clip(tmp_path / "a.mkv", tone(3.0), picture_at_s=1.0, picture_s=2.0)
    sound = tmp_path / "a.wav"
    sound.write_bytes(sound_file(tone(0.5), "WAV"))
    cut = Cut(source, "left", 1.5, 2.0, sound, tmp_path / "cut.mp4")
    (tmp_path / "unfinished").mkdir()
    assert cut_clips([cut], tmp_path / "unfinished") == [None]
    _, times_s, _, frames = seen(cut.clip, sampling=Sampling.count(5))
    np.testing.assert_allclose(frames[:, 8, 8, 0], [60, 68, 76, 84, 92], atol=6)
    assert times_s[0] == pytest.approx(0.0, abs=0.01)


def test_a_sound_that_is_cut_short_makes_no_clip(tmp_path) -> None:
    source = clip(tmp_path / "a.mkv", None, picture_s=2.0)
    sound = tmp_path / "a.wav"
    sound.write_bytes(sound_file(tone(1.0), "WAV")[:-1000])
    cut = Cut(source, "left", 0.5, 1.5, sound, tmp_path / "cut.mp4")
    (tmp_path / "unfinished").mkdir()
    (failure,) = cut_clips([cut], tmp_path / "unfinished")
    assert failure == (
        f"{sound}: is truncated, 1000 bytes are missing at its end; copy or download it again"
    )
    assert not cut.clip.exists()


@pytest.mark.parametrize("layouts", [("mono", "stereo"), ("stereo", "mono"), ("5.1", "mono")])
def test_layouts_that_change_within_a_stream(tmp_path, layouts) -> None:
    """Broadcasts do that at a break; also the rate changes at the second joint."""
    parts = []
    kinds = [(layouts[0], 48_000), (layouts[1], 48_000), ("mono", 44_100)]
    for i, (layout, rate) in enumerate(kinds):
        part = clip(tmp_path / f"{i}.ts", tone(1.0, rate=rate), rate=rate, layout=layout)
        parts.append(part.read_bytes())
    path = tmp_path / "all.ts"
    path.write_bytes(b"".join(parts))
    for kind in (read_clip, hear_clip, inspect_clip):
        assert kind(path, None, WANTED).notes == ()
    sound = seen(path)[0]
    assert sum(end - start for start, end in sound) == pytest.approx(3.0, abs=0.1)
