"""Sound files that are joined, never finished, cut short, or of samples out of range."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
from case_sound import HZ, LOUD, clip, sound_file, sounding_s, tone
from every_case import every_case

from omni_rlvr.media.clip import probe_clip, read_clip
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.tasks.dataset.inspection import hear_clip, inspect_clip
from omni_rlvr.types import MediaError

WANTED = ClipRequest(Sampling.count(1), HZ, want_video=False, want_audio=True)
UNCOMPRESSED = ("WAV", "RF64", "W64", "AIFF", "CAF", "AU")


def read(folder: Path, data: bytes):
    path = folder / "a.sound"
    path.write_bytes(data)
    seen = read_clip(None, path, WANTED)
    for probe in (hear_clip, inspect_clip):  # the checks see what training sees
        if not (probe is inspect_clip and "short" in kinds(seen)):
            assert probe(None, path, WANTED).notes == seen.notes
    assert (probe_clip(None, path, WANTED).waveform is None) == (seen.waveform is None)
    return seen


def kinds(seen) -> list[str]:
    return [note.kind for note in seen.notes]


def length_s(seen) -> float:
    return len(seen.waveform) / HZ


def stereo(wave: np.ndarray) -> np.ndarray:
    return np.stack([wave, wave], axis=1)


# joined recordings


@every_case("kind", [*UNCOMPRESSED, "FLAC", "OGG", "MP3"])
def test_joined_files_are_read_one_after_the_other(tmp_path, kind) -> None:
    """A mono file and one of another rate and layout behind it, both a tone of one second."""
    rate = 44_100 if kind == "MP3" else 24_000
    second = sound_file(stereo(tone(1.0, rate=rate)), kind, rate=rate)
    seen = read(tmp_path, sound_file(tone(1.0), kind) + second)
    padding_s = 0.15 if kind == "MP3" else 0.0005  # the encoder's own, at both ends of each
    assert length_s(seen) == pytest.approx(2.0, abs=padding_s)
    assert sum(end - start for start, end in sounding_s(seen.waveform)) == pytest.approx(
        2.0, abs=0.1
    )
    loud = np.abs(seen.waveform).reshape(-1)
    assert loud.max() == pytest.approx(LOUD, rel=0.2)
    assert kinds(seen) == []


def test_joined_files_of_other_sample_formats(tmp_path) -> None:
    parts = [sound_file(tone(0.5), "WAV", subtype=s) for s in ("PCM_16", "PCM_U8", "FLOAT")]
    seen = read(tmp_path, b"".join(parts))
    assert length_s(seen) == 1.5
    np.testing.assert_allclose(seen.waveform, np.tile(tone(0.5), 3), atol=0.02)


def test_ogg_opus_in_three_parts(tmp_path) -> None:
    parts = [sound_file(tone(1.0, rate=r), "OGG", rate=r, subtype="OPUS") for r in (8000, 48_000)]
    assert length_s(read(tmp_path, b"".join([*parts, parts[0]]))) == pytest.approx(3.0, abs=0.01)


def test_aac_whose_rate_changes(tmp_path) -> None:
    one = clip(tmp_path / "a.aac", tone(1.0), picture_s=None).read_bytes()
    two = clip(tmp_path / "b.aac", tone(1.0, rate=48_000), rate=48_000, picture_s=None)
    seen = read(tmp_path, one + two.read_bytes())
    assert sum(end - start for start, end in sounding_s(seen.waveform)) == pytest.approx(
        2.0, abs=0.1
    )
    assert kinds(seen) == []


# unfinished headers


def sizes(data: bytes, kind: str) -> list[tuple[int, str]]:
    """Where a file says how much sound it holds: (first byte, struct format) of each number."""
    if kind in ("WAV", "RF64"):
        wide = [(data.index(b"ds64") + 16, "<Q")] if kind == "RF64" else []
        return [(data.index(b"data") + 4, "<I"), *wide]
    if kind == "W64":
        return [(data.index(b"data") + 16, "<Q")]
    if kind == "AIFF":
        return [(data.index(b"SSND") + 4, ">I"), (data.index(b"COMM") + 10, ">I")]
    return [(data.index(b"data") + 4, ">Q") if kind == "CAF" else (8, ">I")]


def with_size(data: bytes, kind: str, number: int) -> bytes:
    changed = bytearray(data)
    for at, form in sizes(data, kind):
        if not (kind == "RF64" and form == "<I"):  # which says "see ds64" in either case
            struct.pack_into(form, changed, at, number % 256 ** struct.calcsize(form))
    return bytes(changed)


@every_case("kind", UNCOMPRESSED)
@every_case("number", [0, -1, 8000])
def test_bytes_that_are_there_are_read(tmp_path, kind, number) -> None:
    """Two seconds in a file whose header says none, not known, or much too few bytes."""
    whole = sound_file(tone(2.0), kind)
    seen = read(tmp_path, with_size(whole, kind, number))
    assert length_s(seen) == pytest.approx(2.0, abs=0.002)
    expected = read(tmp_path, whole)
    assert kinds(expected) == []
    shift = len(seen.waveform) - 2 * HZ
    if kind not in ("RF64", "WAV"):  # libsndfile writes a chunk behind the sound of these two
        assert shift == 0
    np.testing.assert_array_equal(seen.waveform[: 2 * HZ], expected.waveform)
    assert set(kinds(seen)) <= {"unfinished"}
    if number >= 0:
        (note,) = seen.notes
        assert f"its header says {number if number else 0} bytes" in note.text or number
        assert re.search(r"bytes of sound, it has \d+; all are read$", note.text)


@every_case("kind", UNCOMPRESSED)
def test_an_end_that_is_missing_is_told(tmp_path, kind) -> None:
    seen = read(tmp_path, sound_file(tone(2.0), kind)[:40_000])
    assert 1.0 < length_s(seen) < 1.25
    assert "short" in kinds(seen)
    assert "bytes are missing at its end" in seen.notes[0].text
    with pytest.raises(MediaError, match=r"a\.sound: is truncated, \d+ bytes are missing"):
        inspect_clip(None, tmp_path / "a.sound", WANTED)


@every_case("kind", UNCOMPRESSED)
def test_an_empty_file_and_other_chunks_are_what_they_are(tmp_path, kind) -> None:
    assert read(tmp_path, sound_file(np.zeros(0, np.float32), kind)).waveform is None
    if kind == "WAV":
        title = b"LIST" + struct.pack("<I", 4000) + b"INFO" + bytes(range(32, 122)) * 44 + bytes(36)
        seen = read(tmp_path, sound_file(tone(1.0), kind) + title)
        assert (length_s(seen), kinds(seen)) == (1.0, [])
        seen = read(tmp_path, sound_file(tone(1.0), kind) + b"TAG" + bytes(125))
        assert (length_s(seen), kinds(seen)) == (1.0, [])


@pytest.mark.parametrize(("samples", "note"), [(0, None), (8000, None), (99_999, "short")])
def test_flac_whose_header_has_another_length(tmp_path, samples, note) -> None:
    data = bytearray(sound_file(tone(2.0), "FLAC"))
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36
    data[18:26] = (packed | samples).to_bytes(8, "big")
    seen = read(tmp_path, bytes(data))
    assert length_s(seen) == 2.0
    assert kinds(seen) == ([note] if note else [])


@every_case("frames", [0, 20, 2000, None])
def test_mp3_whose_header_has_another_length(tmp_path, frames) -> None:
    data = bytearray(sound_file(tone(4.0), "MP3"))
    at = max(data.find(b"Xing"), data.find(b"Info"))
    if frames is None:
        data[at : at + 4] = bytes(4)
    else:
        data[at + 8 : at + 12] = frames.to_bytes(4, "big")
    seen = read(tmp_path, bytes(data))
    assert length_s(seen) == pytest.approx(4.0, abs=0.15)
    assert kinds(seen) == (["short"] if frames == 2000 else [])


def test_ogg_that_breaks_off_is_told(tmp_path) -> None:
    data = sound_file(tone(20.0), "OGG")
    assert kinds(read(tmp_path, data)) == []
    seen = read(tmp_path, data[: len(data) * 2 // 3])
    assert 5 < length_s(seen) < 16
    assert "short" in kinds(seen)
    with pytest.raises(MediaError, match=r"a\.sound: .*(cut short or damaged|cannot be decod)"):
        read(tmp_path, data[:3000])


def test_flac_that_breaks_off_is_read_up_to_there_and_told(tmp_path) -> None:
    seen = read(tmp_path, sound_file(tone(2.0), "FLAC")[:6000])
    assert length_s(seen) == pytest.approx(0.51, abs=0.01)
    assert "short" in kinds(seen)


# samples out of range


def test_floats_in_16_bit_range_sound_like_the_16_bit_file(tmp_path) -> None:
    wave = tone(0.5)
    integers = read(tmp_path, sound_file(wave, "WAV", subtype="PCM_16"))
    floats = np.round(wave * 32768)
    for subtype in ("FLOAT", "DOUBLE"):
        seen = read(tmp_path, sound_file(floats, "WAV", subtype=subtype))
        np.testing.assert_allclose(seen.waveform, integers.waveform, atol=4e-5)
        (note,) = seen.notes
        assert note.kind == "scaled_sound"
        assert note.text.endswith("where 1 is full scale; all are divided by 32768")


@every_case(("peak", "scale"), [
    (1.0, 1.0), (1.5, 1.5), (7.9, 7.9), (9.0, 2.0**15), (32768.0, 2.0**15), (40_000.0, 40_000.0),
    (2.0**23, 2.0**23), (2.0**31, 2.0**31),
])  # fmt: skip
@every_case("kind", ["WAV", "W64", "AIFF", "CAF", "AU"])
def test_what_samples_are_divided_by(tmp_path, kind, peak, scale) -> None:
    wave = tone(0.1) / LOUD * peak
    seen = read(tmp_path, sound_file(stereo(wave), kind, subtype="FLOAT"))
    np.testing.assert_allclose(seen.waveform, wave / scale, atol=1e-4)
    assert kinds(seen) == ["scaled_sound"] * (scale != 1.0)


@every_case("value", [1e12, 1e300, np.nan, np.inf])
def test_samples_of_no_range_are_refused(tmp_path, value) -> None:
    wave = np.full(HZ, value)
    with pytest.raises(
        MediaError, match=r"a\.sound: its sound makes no sense \((its samples reach|16000 of)"
    ):
        read(tmp_path, sound_file(wave, "WAV", subtype="DOUBLE"))


def test_integers_that_are_taken_for_floats_are_refused(tmp_path) -> None:
    data = bytearray(sound_file(tone(1.0), "WAV", subtype="PCM_32"))
    struct.pack_into("<H", data, data.index(b"fmt ") + 8, 3)  # "float"
    with pytest.raises(MediaError, match="its sound makes no sense"):
        read(tmp_path, bytes(data))


def test_a_few_samples_that_are_no_numbers_are_counted(tmp_path) -> None:
    wave = stereo(tone(1.0))
    wave[100:200, 0], wave[300, 1] = np.nan, -np.inf
    seen = read(tmp_path, sound_file(wave, "WAV", subtype="FLOAT"))
    assert not seen.waveform[100:200].any()
    np.testing.assert_array_equal(seen.waveform[301:], tone(1.0)[301:])
    (note,) = seen.notes
    assert note.kind == "silenced_samples"
    assert note.text == "101 of its samples are NaN or infinite; they are replaced by silence"


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
def test_a_track_of_floats_is_scaled_too(tmp_path, codec) -> None:
    path = clip(tmp_path / "a.mkv", tone(0.5) * 32768, codec=codec)
    seen = read_clip(path, None, WANTED)
    np.testing.assert_allclose(seen.waveform, tone(0.5), atol=1e-4)
    assert kinds(seen) == ["scaled_sound"]


def test_a_lossy_codecs_overshoot_is_no_fault(tmp_path) -> None:
    loud = np.sign(tone(1.0)).astype(np.float32)
    for kind in ("MP3", "OGG"):
        seen = read(tmp_path, sound_file(loud, kind))
        assert kinds(seen) == []
        assert np.abs(seen.waveform).max() == 1.0


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "FLAC"])
def test_a_sound_file_in_the_place_of_a_video_is_read_alike(tmp_path, kind) -> None:
    data = sound_file(tone(1.0), kind) + sound_file(tone(1.0, rate=24_000), kind, rate=24_000)
    beside = read(tmp_path, data)
    alone = read_clip(tmp_path / "a.sound", None, WANTED)
    np.testing.assert_array_equal(alone.waveform, beside.waveform)
    assert length_s(alone) == pytest.approx(2.0, abs=0.001)
