"""Sound that is longer than a model's window: what is heard is of the frames' time, and told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from case_sound import HZ, clip, sound_file, sounding_s, tone
from every_case import every_case

from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.frame_sampling import Sampling, sound_pieces
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.tasks.dataset.inspection import hear_clip, inspect_clip

WANTED = ClipRequest(Sampling.count(4), HZ, want_video=True, want_audio=True)


def read(video: Path | None, audio: Path | None = None, **changes):
    return read_clip(video, audio, replace(WANTED, **{"window_s": 2.0, **changes}))


def pieces(centres: list[float], num_samples: int, window: int) -> list[tuple[int, int]]:
    found = sound_pieces(np.array(centres), num_samples, window)
    return [(piece.start, piece.stop) for piece in found]


def test_pieces_by_hand() -> None:
    assert pieces([10, 30, 50, 70], 80, 40) == [(5, 15), (25, 35), (45, 55), (65, 75)]
    assert pieces([10, 30, 50, 70], 80, 80) == [(0, 20), (20, 40), (40, 60), (60, 80)]
    # frames closer than a piece is long: the pieces follow each other, within the sound
    assert pieces([0, 1, 2, 3], 80, 40) == [(0, 10), (10, 20), (20, 30), (30, 40)]
    assert pieces([95, 96, 97, 98], 80, 40) == [(40, 50), (50, 60), (60, 70), (70, 80)]
    # a window that the frames do not divide: 3 + 4 + 3 samples, none twice
    assert pieces([5, 15, 25], 30, 10) == [(4, 7), (13, 17), (24, 27)]


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_a_late_voice_is_heard_around_the_frames_and_the_rest_is_told(tmp_path, codec) -> None:
    """Five seconds, a voice from 3 s on: the frames are at 0.6, 1.9, 3.0 and 4.3 s."""
    wave = tone(5, silent_s=3.0)
    path = clip(tmp_path / "a.mov", wave, picture_s=5.0, codec=codec)
    seen = read(path)
    np.testing.assert_allclose(seen.frame_times_s, [0.6, 1.8, 3.1, 4.3], atol=0.001)
    assert len(seen.waveform) == 2 * HZ
    # half a second around each: [.35, .85], [1.55, 2.05], [2.85, 3.35], [4.05, 4.55]
    assert sounding_s(seen.waveform) == [(pytest.approx(1.15, abs=0.02), 2.0)]
    (note,) = seen.notes
    assert note.kind == "cut_sound"
    length = len(read_clip(path, None, WANTED).waveform) / HZ
    assert f"{length - 2:.2f} of the {length:.2f} s of its sound are not used" in note.text
    assert "the model takes 2 s" in note.text
    for probe in (hear_clip, inspect_clip):
        assert probe(path, None, replace(WANTED, window_s=2.0)).notes == (note,)


def test_what_is_heard_does_not_depend_on_whether_the_picture_is_read(tmp_path) -> None:
    path = clip(tmp_path / "a.mp4", tone(5, silent_s=3.0), picture_s=5.0)
    heard = read(path).waveform
    np.testing.assert_array_equal(read(path, want_video=False).waveform, heard)
    sound = tmp_path / "a.wav"
    sound.write_bytes(sound_file(tone(5, silent_s=3.0), "WAV"))
    beside = read(path, sound).waveform
    np.testing.assert_array_equal(read(path, sound, want_video=False).waveform, beside)
    alone = read(None, sound, want_video=False)
    assert len(alone.waveform) == 2 * HZ
    assert sounding_s(alone.waveform)
    assert [note.kind for note in alone.notes] == ["cut_sound"]


def test_sound_beyond_a_short_picture_is_the_part_that_is_left_out(tmp_path) -> None:
    path = clip(tmp_path / "a.mov", tone(5, silent_s=2.5), codec="pcm_s16le")
    seen = read(path)  # one second of picture: the window holds the first two seconds
    assert sounding_s(seen.waveform) == []
    assert [note.kind for note in seen.notes] == ["cut_sound"]


@every_case(("kind", "seconds", "cut"), [
    ("WAV", 2.0, False), ("WAV", 2.1, True), ("FLAC", 1.5, False), ("MP3", 2.1, False),
    ("MP3", 2.5, True), ("OGG", 2.5, True),
])  # fmt: skip
def test_only_a_codecs_own_padding_is_cut_without_a_word(tmp_path, kind, seconds, cut) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(sound_file(tone(seconds), kind))
    seen = read(None, path, want_video=False)
    assert [note.kind for note in seen.notes] == ["cut_sound"] * cut
    assert len(seen.waveform) == round(min(seconds, 2.0) * HZ)
    whole = read(None, path, want_video=False, window_s=None).waveform
    if not cut:
        np.testing.assert_array_equal(seen.waveform, whole[: 2 * HZ])


def test_a_processor_never_cuts_in_silence(tiny_policy) -> None:
    processor = tiny_policy.processor
    assert processor.window_s == 1.0
    whole, _ = processor.audio(tone(1.0))
    assert whole.shape == (80, 100)
    with pytest.raises(
        ValueError, match=r"1.1 s of sound are longer than the model.s window of 1 s"
    ):
        processor.audio(tone(1.1))
    assert torch.isfinite(whole).all()
