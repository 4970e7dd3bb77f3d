"""Clips with a fault in the middle: opening does not see it, decoding all of them does."""

from __future__ import annotations

import io
import wave
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from every_case import every_case
from make_clips import Recipe, write

from omni_rlvr.media.clip import probe_clip
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.tasks.dataset import inspection
from omni_rlvr.tasks.dataset.inspection import inspect_clip
from omni_rlvr.types import MediaError

WANTED = ClipRequest(Sampling.count(2), 16_000, want_video=True, want_audio=True)
KINDS = [
    ("a.mp4", Recipe()),
    ("a.mkv", Recipe()),
    ("a.webm", Recipe(picture="libvpx-vp9", sound="libopus")),
    ("a.avi", Recipe(picture="mpeg4", sound="mp3")),
]


def damage(path: Path, stream: str, share: float) -> float:
    """Overwrite the packet at this share of a stream, and say when it is shown."""
    data = bytearray(path.read_bytes())
    with av.open(io.BytesIO(bytes(data))) as container:
        packets = [p for p in container.demux() if p.stream.type == stream and p.size]
        packet = packets[round(share * (len(packets) - 1))]
        skipped = min(8, packet.size // 3)
        at, time_s = packet.pos + skipped, float((packet.pts or packet.dts) * packet.time_base)
    noise = np.random.default_rng(0).bytes(packet.size - skipped)
    data[at : at + len(noise)] = noise
    path.write_bytes(data)
    return time_s


@every_case(("name", "recipe"), KINDS)
def test_whole_clips_pass_and_say_what_they_hold(tmp_path, name, recipe):
    path = write(tmp_path / name, recipe)
    seen, opened = (read(path, None, WANTED) for read in (inspect_clip, probe_clip))
    assert seen.duration_s == opened.duration_s
    assert seen.frames is not None
    assert seen.waveform is not None
    silent = write(tmp_path / f"silent.{name}", replace(recipe, sound=None))
    assert inspect_clip(silent, None, WANTED).waveform is None
    audio_only = replace(WANTED, want_video=False)
    assert inspect_clip(silent, None, audio_only).waveform is None


@every_case(
    ("name", "recipe", "stream"),
    [
        *((*kind, "video") for kind in KINDS[:3]),
        *((*kind, "audio") for kind in KINDS[:2]),  # Opus takes any bytes for sound
    ],
)
def test_a_fault_in_the_middle_is_found(tmp_path, name, recipe, stream):
    path = write(tmp_path / name, recipe)
    damage(path, stream, 0.9)
    assert probe_clip(path, None, WANTED).duration_s > 0.9  # opening it finds nothing
    with pytest.raises(MediaError) as caught:
        inspect_clip(path, None, WANTED)
    assert str(caught.value).startswith(
        f"{path}: its {'picture' if stream == 'video' else 'sound'}"
    )
    assert "\n" not in str(caught.value)
    other = {"want_video": stream != "video", "want_audio": stream != "audio"}
    inspect_clip(path, None, replace(WANTED, **other))  # what is not used may be damaged


def test_a_damaged_frame_between_the_sampled_ones_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", Recipe())
    time_s = damage(path, "video", 0.8)
    monkeypatch.setattr(inspection, "read_clip", lambda *_, **__: None)  # as if it got by
    with pytest.raises(
        MediaError, match=r"picture is damaged in \d+ places, the first near 0\."
    ) as e:
        inspect_clip(path, None, WANTED)
    assert f"near {time_s:.2f} s" in str(e.value)


def test_a_file_that_ends_before_its_header_says(tmp_path):
    path = write(tmp_path / "a.mkv", Recipe())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert probe_clip(path, None, WANTED).frames is not None
    with pytest.raises(MediaError, match=r"a\.mkv: ends at 0\.\d\d s of the 1\.\d\d s"):
        inspect_clip(path, None, WANTED)


def test_a_sidecar_that_is_cut(tmp_path):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.zeros(16_000, np.int16).tobytes())
    assert inspect_clip(None, path, WANTED).duration_s == 1.0
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    with pytest.raises(MediaError, match=r"a\.wav: is truncated, 1000 bytes are missing"):
        inspect_clip(None, path, WANTED)
    path.write_bytes(whole[:4] + b"\xff\xff\xff\xff" + whole[8:])  # a recorder that never knew
    assert inspect_clip(None, path, WANTED).waveform is not None
